//! The `keytrail` command.

fn main() {}
