"""Several devices and machines: strategies, rendezvous."""
