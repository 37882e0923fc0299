//! The store on disk when things go wrong: the gate dies at any moment, the disk is full, files are torn
//! or put back, two gates want one store. Nothing that was confirmed is lost, nothing happens twice, and
//! what cannot be relied on is refused by name.
#![cfg(feature = "store")]

#[path = "../support/mod.rs"]
mod support;

mod copies;
mod faults;
mod load;
mod points;
mod rig;
mod snapshots;
mod torn;
