"""Several devices and machines: who takes part, where they meet, what each computes on."""
