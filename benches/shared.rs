//! How fast several gates spend one budget on one PostgreSQL.
fn main() {}
