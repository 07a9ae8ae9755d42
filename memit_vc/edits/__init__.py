"""Edit files: JSON, JSON Lines or CSV into checked facts, and back."""

from memit_vc.edits.batch import EditBatch as EditBatch
from memit_vc.edits.batch import duplicates as duplicates
from memit_vc.edits.batch import parse_records as parse_records
from memit_vc.edits.batch import read_edits as read_edits
from memit_vc.edits.certain import find_subject as find_subject
from memit_vc.edits.subjects import Candidate as Candidate
from memit_vc.edits.subjects import subject_candidates as subject_candidates
from memit_vc.edits.writing import write_records as write_records
