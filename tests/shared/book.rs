//! What the database does, the slow and obvious way: the oracle for the SQL, and the database of the model.

use std::collections::BTreeMap;

use weir::pep::share::granted;

/// A gate's number; the tests on a database give it a name.
pub type GateNo = u8;
/// A pot's number.
pub type PotNo = u8;

/// Why the book does not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum No {
    /// The gate is not known, was retired, or began again since.
    Fenced,
    /// A later statement of the gate about this pot has been heard already.
    Stale,
    /// The journal that the gate shows is older than one it has shown.
    Older,
    /// The gate's standing has not run out.
    Live,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Book {
    pub gates: BTreeMap<GateNo, GateRow>,
    pub pots: BTreeMap<PotNo, PotRow>,
    /// The newest order: freezes and thaws are numbered.
    pub version: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GateRow {
    pub epoch: u64,
    pub token: u64,
    /// The longest journal that the gate has told of.
    pub position: u64,
    /// When its standing ends, by the database's clock.
    pub expires: u64,
    pub acked: u64,
    pub retired: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PotRow {
    pub shares: BTreeMap<GateNo, Share>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Share {
    pub held: u64,
    pub raised: u64,
    pub epoch: u64,
    pub seq: u64,
}

/// One statement of a gate about a pot: what its journal says it has, and how much more it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    pub gate: GateNo,
    pub epoch: u64,
    pub seq: u64,
    pub pot: PotNo,
    pub known: u64,
    pub raised: u64,
    pub least: u64,
    pub most: u64,
    pub limit: u64,
}

impl Book {
    /// A gate began with a journal of `epoch` entries whose last one is `token`.
    pub fn register(&mut self, gate: GateNo, epoch: u64, token: u64) -> Result<(), No> {
        let row = self.gates.entry(gate).or_default();
        if row.retired {
            return Err(No::Fenced);
        }
        if (row.epoch, row.token) == (epoch, token) {
            return Ok(());
        }
        if epoch <= row.epoch || epoch < row.position {
            return Err(No::Older);
        }
        *row = GateRow { epoch, token, position: epoch, expires: row.expires, acked: row.acked, retired: false };
        Ok(())
    }

    fn gate(&self, gate: GateNo, epoch: u64) -> Result<&GateRow, No> {
        self.gates.get(&gate).filter(|row| row.epoch == epoch && !row.retired).ok_or(No::Fenced)
    }

    /// What the gate has in the pot from now on, and what is left in it.
    pub fn claim(&mut self, claim: &Claim) -> Result<(u64, u64), No> {
        self.gate(claim.gate, claim.epoch)?;
        let pot = self.pots.entry(claim.pot).or_default();
        let share = pot.shares.get(&claim.gate).copied().unwrap_or_default();
        if (claim.epoch, claim.seq) <= (share.epoch, share.seq) {
            return Err(No::Stale);
        }
        let others: u64 = pot.shares.iter().filter(|(gate, _)| **gate != claim.gate).map(|(_, share)| share.held).sum();
        let raised: u64 =
            pot.shares.iter().filter(|(gate, _)| **gate != claim.gate).map(|(_, share)| share.raised).sum();
        let room = (claim.limit + raised + claim.raised).saturating_sub(others).saturating_sub(claim.known);
        let more = granted(room, claim.least, claim.most);
        let held = claim.known + more;
        pot.shares.insert(claim.gate, Share { held, raised: claim.raised, epoch: claim.epoch, seq: claim.seq });
        Ok((held, room - more))
    }

    /// Sum of what the gates have in a pot.
    pub fn held(&self, pot: PotNo) -> u64 {
        self.pots.get(&pot).map_or(0, |pot| pot.shares.values().map(|share| share.held).sum())
    }

    /// The gate lives and has followed every order up to `acked`: the newest order that it must follow now.
    pub fn renew(&mut self, gate: GateNo, epoch: u64, acked: u64, until: u64) -> Result<u64, No> {
        self.gate(gate, epoch)?;
        let version = self.version;
        let Some(row) = self.gates.get_mut(&gate) else { return Err(No::Fenced) };
        row.acked = row.acked.max(acked);
        row.expires = row.expires.max(until);
        Ok(version)
    }

    /// Whether every gate has followed order `version` or has no standing at `now`.
    pub fn quiet(&self, version: u64, now: u64) -> bool {
        self.gates.values().all(|row| row.retired || row.acked >= version || row.expires <= now)
    }

    /// Ends a gate for good: what it has in its pots stays counted as spent.
    pub fn retire(&mut self, gate: GateNo, now: u64) -> Result<(), No> {
        let row = self.gates.get_mut(&gate).ok_or(No::Fenced)?;
        if row.expires > now {
            return Err(No::Live);
        }
        row.retired = true;
        Ok(())
    }
}
