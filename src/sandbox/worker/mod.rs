//! The worker's side of the sandbox: what runs behind the lock.

pub(crate) mod files;
