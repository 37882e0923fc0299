//! Executor for generated code.
