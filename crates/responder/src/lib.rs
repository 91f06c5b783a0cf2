//! Acts on alerts: verifies them, groups them into incidents, plans by playbook, guards, acts once, and tells people.
