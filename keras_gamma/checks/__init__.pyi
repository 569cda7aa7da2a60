from .auditing import Audit as Audit
from .auditing import AuditEntry as AuditEntry
from .auditing import audit as audit
from .verification import Agreement as Agreement
from .verification import Evidence as Evidence
from .verification import Verification as Verification
from .verification import verify as verify
