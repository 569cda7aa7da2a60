from .classification import Role as Role
from .classification import Verdict as Verdict
from .finding import GammaRole as GammaRole
from .finding import Note as Note
from .finding import RoleReport as RoleReport
from .finding import find_roles as find_roles
