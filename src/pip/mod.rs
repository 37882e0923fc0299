//! The policy information point (PIP): gathers the facts that a decision reads.
