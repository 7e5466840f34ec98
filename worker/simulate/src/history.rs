//! What a bank knows of an account at a time, of the transfers before it.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::{Channel, DAY, HOUR, REPORTED, Transfer};

/// Names of what [`Snapshot::values`] holds, in its order.
pub const COLUMNS: [&str; 12] = [
    "outCount1h",
    "outCount24h",
    "outSum24h",
    "outPeers24h",
    "inCount24h",
    "inSum24h",
    "inPeers24h",
    "passedOn24h",
    "cashCount7d",
    "nearReported7d",
    "count7d",
    "meanAmount7d",
];

/// What was known of an account once a transfer was booked.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The account.
    pub account: u32,
    /// Seconds since the first day began.
    pub at: i64,
    /// What [`COLUMNS`] names.
    pub values: [f64; COLUMNS.len()],
}

/// Accounts' last seven days.
#[derive(Debug, Default)]
pub struct History {
    accounts: HashMap<u32, VecDeque<Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: i64,
    amount: f64,
    peer: u32,
    incoming: bool,
    cash: bool,
}

impl History {
    /// Books a transfer, and tells what is known of both accounts then. Transfers come in the order
    /// of time.
    pub fn book(&mut self, transfer: &Transfer) -> [Snapshot; 2] {
        let Transfer { at, sender, receiver, amount, channel, .. } = *transfer;
        let cash = channel == Channel::Cash;
        [(sender, receiver, false), (receiver, sender, true)].map(|(account, peer, incoming)| {
            let entries = self.accounts.entry(account).or_default();
            while entries.front().is_some_and(|entry| entry.at <= at - 7 * DAY) {
                entries.pop_front();
            }
            entries.push_back(Entry { at, amount, peer, incoming, cash });
            Snapshot { account, at, values: known(entries, at) }
        })
    }
}

fn known(entries: &VecDeque<Entry>, now: i64) -> [f64; COLUMNS.len()] {
    let (mut out_hour, mut out_sum, mut in_sum, mut all) = (0.0, 0.0, 0.0, 0.0);
    let (mut outgoing, mut incoming, mut cash, mut near) = (0.0, 0.0, 0.0, 0.0);
    let (mut paid, mut paid_by) = (HashSet::new(), HashSet::new());
    for entry in entries {
        all += entry.amount;
        if entry.cash {
            cash += 1.0;
            near += f64::from(u8::from((0.8 * REPORTED..REPORTED).contains(&entry.amount)));
        }
        if entry.at <= now - DAY {
            continue;
        }
        if entry.incoming {
            incoming += 1.0;
            in_sum += entry.amount;
            paid_by.insert(entry.peer);
        } else {
            outgoing += 1.0;
            out_sum += entry.amount;
            paid.insert(entry.peer);
            out_hour += f64::from(u8::from(entry.at > now - HOUR));
        }
    }
    let passed_on = if in_sum > 0.0 { (out_sum / in_sum).min(10.0) } else { 0.0 };
    let count = entries.len() as f64;
    [
        out_hour,
        outgoing,
        cents(out_sum),
        paid.len() as f64,
        incoming,
        cents(in_sum),
        paid_by.len() as f64,
        (passed_on * 1e4).round() / 1e4,
        cash,
        near,
        count,
        cents(all / count.max(1.0)),
    ]
}

fn cents(amount: f64) -> f64 {
    (amount * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_forgotten() {
        let mut history = History::default();
        let transfer = |at, sender, receiver, amount| Transfer {
            at,
            sender,
            receiver,
            amount,
            channel: Channel::Online,
            typology: None,
        };
        let value = |snapshot: &Snapshot, name: &str| {
            snapshot.values[COLUMNS.iter().position(|column| *column == name).unwrap()]
        };
        history.book(&transfer(0, 1, 2, 10.0));
        history.book(&transfer(HOUR / 2, 1, 3, 30.0));
        let [sender, receiver] = history.book(&transfer(2 * HOUR, 2, 1, 80.0));
        assert_eq!((sender.account, receiver.account), (2, 1));
        assert_eq!((value(&receiver, "outCount1h"), value(&receiver, "outCount24h")), (0.0, 2.0));
        assert_eq!((value(&receiver, "outPeers24h"), value(&receiver, "passedOn24h")), (2.0, 0.5));
        assert_eq!((value(&sender, "inSum24h"), value(&sender, "passedOn24h")), (10.0, 8.0));
        let [later, _] = history.book(&transfer(7 * DAY + HOUR, 1, 9, 5.0));
        assert_eq!((value(&later, "count7d"), value(&later, "meanAmount7d")), (2.0, 42.5));
        assert_eq!((value(&later, "outCount24h"), value(&later, "inCount24h")), (1.0, 0.0));
    }
}
