//! Simulated bank transfers, some of which launder money.
//!
//! Accounts of people and businesses pay each other as they live: wages, rents, purchases, takings
//! brought to the bank. Among them, [`cases`] hides laundering of four kinds that supervisors
//! describe (FATF, Professional Money Laundering, 2018; FinCEN on structuring, 31 USC 5324). What a bank
//! would know of an account at a time is what [`history`] says. The same options give the same bytes.
//!
//! This is no model of any bank: figures learned from it say how a pipeline works, and nothing of
//! real laundering.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "accounts, days and transfers are counted far below what 32 bits hold"
)]

mod cases;
mod history;
mod population;
mod write;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

pub use cases::Typology;
pub use history::{COLUMNS, History, Snapshot};
pub use write::{WriteError, write};

/// From which amount of cash on a bank has to report it.
pub const REPORTED: f64 = 10_000.0;
/// The account that stands for cash.
pub const CASH: u32 = 0;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Accounts, at least 100.
    pub accounts: u32,
    /// Days.
    pub days: u32,
    /// Cases of laundering for 1,000 accounts and 30 days, of all kinds together.
    pub cases: f64,
    /// Decides on everything.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { accounts: 5_000, days: 90, cases: 4.0, seed: 0 }
    }
}

/// Money that moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// Seconds since the first day began.
    pub at: i64,
    /// Account that pays.
    pub sender: u32,
    /// Account that is paid.
    pub receiver: u32,
    /// Euros, in whole cents.
    pub amount: f64,
    /// How.
    pub channel: Channel,
    /// What it launders; `None`: nothing.
    pub typology: Option<Typology>,
}

/// How money moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Over the counter.
    Cash,
    /// By card.
    Card,
    /// By the bank's site.
    Online,
    /// To another bank.
    Wire,
}

impl Channel {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cash => "cash",
            Self::Card => "card",
            Self::Online => "online",
            Self::Wire => "wire",
        }
    }
}

/// All transfers, in the order of time.
pub fn transfers(options: &Options) -> Vec<Transfer> {
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let accounts = population::accounts(options, &mut random);
    let mut transfers = population::life(options, &accounts, &mut random);
    transfers.extend(cases::cases(options, &accounts, &mut random));
    let end = i64::from(options.days) * DAY;
    transfers.retain(|transfer| (0..end).contains(&transfer.at));
    transfers.sort_by(|one, other| {
        let key = |of: &Transfer| (of.at, of.sender, of.receiver);
        key(one).cmp(&key(other)).then(one.amount.total_cmp(&other.amount))
    });
    transfers
}

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;
/// Seconds of an hour.
pub(crate) const HOUR: i64 = 3_600;

/// Whole cents.
pub(crate) fn cents(amount: f64) -> f64 {
    (amount * 100.0).round().max(1.0) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_same_seed_gives_the_same_transfers() {
        let options = Options { accounts: 300, days: 20, ..Options::default() };
        let one = transfers(&options);
        assert_eq!(one, transfers(&options));
        assert_ne!(one, transfers(&Options { seed: 1, ..options }));
    }

    #[test]
    fn laundering_is_rare_and_of_all_kinds() {
        let options = Options { accounts: 2_000, days: 60, cases: 8.0, seed: 3 };
        let all = transfers(&options);
        assert!(all.is_sorted_by_key(|transfer| transfer.at));
        let mut kinds = BTreeMap::new();
        for transfer in &all {
            *kinds.entry(transfer.typology.map_or("none", Typology::name)).or_insert(0) += 1;
            assert!(transfer.sender != transfer.receiver && transfer.amount >= 0.01);
            assert!(transfer.sender < options.accounts && transfer.receiver < options.accounts);
        }
        let laundered = all.len() - kinds["none"];
        let share = laundered as f64 / all.len() as f64;
        assert_eq!(kinds.len(), 5, "{kinds:?}");
        assert!((0.002..0.05).contains(&share), "{share}: {kinds:?}");
    }

    #[test]
    fn structured_cash_stays_below_what_is_reported() {
        let all = transfers(&Options { accounts: 2_000, days: 60, cases: 8.0, seed: 3 });
        let structured = all.iter().filter(|transfer| {
            transfer.typology == Some(Typology::Structuring) && transfer.channel == Channel::Cash
        });
        let amounts: Vec<f64> = structured.map(|transfer| transfer.amount).collect();
        assert!(amounts.len() > 20 && amounts.iter().all(|amount| *amount < REPORTED));
    }
}
