//! The states of a key, and the dates on which the service itself changes one.

/// One day in microseconds.
pub const DAY_US: u64 = 86_400_000_000;

/// How long a multi-Region key stays in a transient state; at AWS it is seconds.
pub const TRANSIENT_US: u64 = 500_000;

/// What a key may be used for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Everything works.
    Enabled,
    /// No cryptographic use.
    Disabled,
    /// Made for imported material, which is not there.
    PendingImport,
    /// A replica that was just made of its primary key: no cryptographic use yet.
    Creating {
        /// Unix microseconds from which the service makes it usable.
        until_us: u64,
    },
    /// A key that was just made the primary key, or a replica: works, but is not managed meanwhile.
    Updating {
        /// Unix microseconds from which the service ends that.
        until_us: u64,
    },
    /// No use and no change but its cancelling; gone after the date.
    PendingDeletion {
        /// Unix microseconds from which the deletion job removes the key.
        deletion_us: u64,
    },
    /// The custom key store of the key is not connected: no cryptographic use. Shown only, never stored.
    Unavailable,
    /// A primary key that shall be deleted and has replicas: the waiting period begins when the last of them is gone.
    PendingReplicaDeletion {
        /// The waiting period, in days.
        window_days: u32,
    },
}

impl KeyState {
    /// AWS's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingImport => "PendingImport",
            Self::Creating { .. } => "Creating",
            Self::Updating { .. } => "Updating",
            Self::Unavailable => "Unavailable",
            Self::PendingDeletion { .. } => "PendingDeletion",
            Self::PendingReplicaDeletion { .. } => "PendingReplicaDeletion",
        }
    }

    /// The date of deletion, while one is set.
    pub fn deletion_us(self) -> Option<u64> {
        match self {
            Self::PendingDeletion { deletion_us } => Some(deletion_us),
            _ => None,
        }
    }

    /// When a transient state ends.
    pub fn until_us(self) -> Option<u64> {
        match self {
            Self::Creating { until_us } | Self::Updating { until_us } => Some(until_us),
            _ => None,
        }
    }

    /// Of a replica that is made now.
    pub fn creating(now_us: u64) -> Self {
        Self::Creating { until_us: now_us + TRANSIENT_US }
    }

    /// Of a key that is made the primary key, or a replica, now.
    pub fn updating(now_us: u64) -> Self {
        Self::Updating { until_us: now_us + TRANSIENT_US }
    }

    /// The waiting period that has not begun, in days.
    pub fn window_days(self) -> Option<u32> {
        match self {
            Self::PendingReplicaDeletion { window_days } => Some(window_days),
            _ => None,
        }
    }

    /// Whether the key shall be deleted.
    pub fn is_pending_deletion(self) -> bool {
        matches!(self, Self::PendingDeletion { .. } | Self::PendingReplicaDeletion { .. })
    }
}

/// The schedule of a key that rotates by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutomaticRotation {
    /// Days between two rotations.
    pub period_days: u32,
    /// Unix microseconds of the next one.
    pub next_us: u64,
}

impl AutomaticRotation {
    /// A schedule whose first period begins now.
    pub fn starting(period_days: u32, now_us: u64) -> Self {
        Self { period_days, next_us: now_us.saturating_add(u64::from(period_days) * DAY_US) }
    }
}

/// What the service itself does to a key when a date comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DueKind {
    /// It is deleted.
    Deletion,
    /// It gets new material.
    Rotation,
    /// Its imported material ends.
    Expiry,
    /// It is made equal to its related keys, which ends [`KeyState::Creating`] and [`KeyState::Updating`].
    Synchronization,
}
