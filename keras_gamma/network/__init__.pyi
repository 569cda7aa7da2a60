from .graph import Graph as Graph
from .graph import Kind as Kind
from .graph import Node as Node
from .inputs import trace as trace
from .network import Network as Network
from .normalizations import register_normalization as register_normalization
