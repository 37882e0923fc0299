//! Durable stores behind the journal port.
