"""A plain implementation of the equations to hold the engine against."""

from tests.support.oracle.oracle import Request as Request
from tests.support.oracle.oracle import Result as Result
from tests.support.oracle.oracle import Setting as Setting
from tests.support.oracle.oracle import memit as memit
