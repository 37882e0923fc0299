//! The memory of one guest while it grows.

use wasmtime::ResourceLimiter;

/// Elements of all tables of one guest; the interpreter itself has about 20,000.
const TABLE_ELEMENTS: usize = 100_000;

/// The memory limit of a guest, its peak, and whether it was ever told "no".
#[derive(Debug)]
pub(crate) struct Memory {
    /// Bytes allowed.
    pub(crate) limit: usize,
    /// Bytes in use now, which is also the peak: linear memory never shrinks.
    pub(crate) bytes: usize,
    /// True when growth was refused in this execution.
    pub(crate) refused: bool,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.limit {
            self.refused = true;
            return Ok(false);
        }
        self.bytes = self.bytes.max(desired);
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }
}
