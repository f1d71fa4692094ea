"""A mesh on one machine: namespaces, the product's programs, applications that verify every byte.

Used by deploy/demo and by the end-to-end tests alike."""
