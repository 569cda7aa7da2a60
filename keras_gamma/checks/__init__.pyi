from .audit_report import Audit as Audit
from .audit_report import AuditEntry as AuditEntry
from .auditing import audit as audit
from .claims import Agreement as Agreement
from .guard import DecayGuard as DecayGuard
from .verification import Evidence as Evidence
from .verification import Verification as Verification
from .verification import verify as verify
