from .base import Report as Report
from .columns import Column as Column
