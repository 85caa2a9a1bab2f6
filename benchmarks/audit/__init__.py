"""The machine code of every GPU kernel that ships, audited without a GPU."""
