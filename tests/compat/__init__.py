"""EasyEdit's interface, held against what `docs/easyedit.md` says of it."""
