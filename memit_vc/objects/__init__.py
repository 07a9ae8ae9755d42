"""What everything is about, as frozen values: base, fact, patch, commit, ids. No tensors, no database, no files."""

from memit_vc.objects.base import BaseManifest as BaseManifest
from memit_vc.objects.base import EditableWeight as EditableWeight
from memit_vc.objects.base import TensorRecord as TensorRecord
from memit_vc.objects.commit import Commit as Commit
from memit_vc.objects.commit import root_commit as root_commit
from memit_vc.objects.fact import Fact as Fact
from memit_vc.objects.fact import Probe as Probe
from memit_vc.objects.ids import BaseId as BaseId
from memit_vc.objects.ids import BlobId as BlobId
from memit_vc.objects.ids import ColumnId as ColumnId
from memit_vc.objects.ids import CommitId as CommitId
from memit_vc.objects.ids import FactId as FactId
from memit_vc.objects.ids import JsonValue as JsonValue
from memit_vc.objects.ids import PatchId as PatchId
from memit_vc.objects.ids import StateId as StateId
from memit_vc.objects.ids import StatisticsId as StatisticsId
from memit_vc.objects.ids import canonical_json as canonical_json
from memit_vc.objects.ids import digest as digest
from memit_vc.objects.ids import short as short
from memit_vc.objects.patch import METADATA_KEY as METADATA_KEY
from memit_vc.objects.patch import PatchColumn as PatchColumn
from memit_vc.objects.patch import PatchHeader as PatchHeader
from memit_vc.objects.patch import WeightForm as WeightForm
