"""A plain implementation of the equations to hold the engine against."""

from tests.oracle.oracle import Request as Request
from tests.oracle.oracle import Result as Result
from tests.oracle.oracle import Setting as Setting
from tests.oracle.oracle import memit as memit
