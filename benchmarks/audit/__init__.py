"""An audit of the machine code of every shipped GPU kernel; it needs no GPU."""
