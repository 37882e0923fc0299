//! Interception surfaces.
