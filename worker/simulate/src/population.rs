//! Accounts, and what they do all day.

use rand::Rng;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, LogNormal, Poisson};

use crate::{CASH, Channel, DAY, HOUR, Options, Transfer, cents};

/// Whose account it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Person,
    Business,
}

/// Somebody who pays and is paid.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) owner: Owner,
    /// Payments a day.
    activity: f64,
    /// Mean of the payments' logarithm.
    scale: f64,
    /// Whom it pays, those first that it pays most.
    peers: Vec<u32>,
    /// Whom it pays wages.
    employees: Vec<u32>,
}

/// Share of accounts that are of businesses.
const BUSINESSES: f64 = 0.12;
/// Share of payments that go to somebody new.
const NEW_PEER: f64 = 0.12;
/// Share of businesses that bring their takings to the bank.
const SHOPS: f64 = 0.3;

/// All accounts; the first stands for cash.
pub(crate) fn accounts(options: &Options, random: &mut ChaCha8Rng) -> Vec<Account> {
    let count = options.accounts.max(100);
    let mut accounts: Vec<Account> = (0..count).map(|_| account(count, random)).collect();
    let owners: Vec<Owner> = accounts.iter().map(|account| account.owner).collect();
    let businesses: Vec<u32> =
        (1..count).filter(|number| owners[*number as usize] == Owner::Business).collect();
    for number in (1..count).filter(|number| owners[*number as usize] == Owner::Person) {
        if let (true, Some(employer)) = (random.random_bool(0.7), businesses.choose(random)) {
            accounts[*employer as usize].employees.push(number);
        }
    }
    accounts
}

fn account(count: u32, random: &mut ChaCha8Rng) -> Account {
    let owner = if random.random_bool(BUSINESSES) { Owner::Business } else { Owner::Person };
    let (activity, scale, peers) = match owner {
        Owner::Person => (0.35, 3.6, 12),
        Owner::Business => (1.5, 5.8, 40),
    };
    let spread = log_normal(0.0, 0.7).sample(random);
    Account {
        owner,
        activity: activity * spread,
        scale: scale + random.random_range(-0.6..0.6),
        peers: (0..peers).map(|_| random.random_range(1..count)).collect(),
        employees: Vec::new(),
    }
}

pub(crate) fn log_normal(mean: f64, deviation: f64) -> LogNormal<f64> {
    // Deviations here are constants above 0, which is all that is asked for.
    LogNormal::new(mean, deviation).unwrap_or_else(|_| unreachable!("a deviation above 0"))
}

/// What all accounts do on all days.
pub(crate) fn life(
    options: &Options,
    accounts: &[Account],
    random: &mut ChaCha8Rng,
) -> Vec<Transfer> {
    let mut transfers = Vec::new();
    for day in 0..i64::from(options.days) {
        for number in 1..accounts.len() {
            payments(day, number, accounts, random, &mut transfers);
            wages(day, number, accounts, random, &mut transfers);
            takings(day, number, accounts, random, &mut transfers);
        }
    }
    transfers
}

/// A time of the day at which people are awake.
pub(crate) fn daytime(random: &mut ChaCha8Rng) -> i64 {
    let hour = i64::midpoint(random.random_range(0..24), random.random_range(0..24));
    (hour + 2) % 24 * HOUR + random.random_range(0..HOUR)
}

fn payments(
    day: i64,
    number: usize,
    accounts: &[Account],
    random: &mut ChaCha8Rng,
    out: &mut Vec<Transfer>,
) {
    let account = &accounts[number];
    let weekend = if day % 7 >= 5 { 0.6 } else { 1.0 };
    let count =
        Poisson::new(account.activity * weekend).map_or(0.0, |poisson| poisson.sample(random));
    for _ in 0..count as u32 {
        let known = random.random_range(0..account.peers.len());
        let known = random.random_range(0..=known);
        let receiver = if random.random_bool(NEW_PEER) {
            random.random_range(1..accounts.len() as u32)
        } else {
            account.peers[known]
        };
        let channel = match (account.owner, random.random_range(0..100)) {
            (Owner::Person, 0..55) => Channel::Card,
            (Owner::Person, 55..95) | (Owner::Business, 0..70) => Channel::Online,
            _ => Channel::Wire,
        };
        let mut amount = log_normal(account.scale, 1.0).sample(random);
        if random.random_bool(0.08) {
            // Large purchases, and round ones.
            amount = (amount * random.random_range(5.0..40.0) / 50.0).ceil() * 50.0;
        }
        push(out, (day * DAY + daytime(random), number as u32, receiver), amount, channel);
    }
}

/// One payment to many, once a month: it looks like a fan-out, and is none.
fn wages(
    day: i64,
    number: usize,
    accounts: &[Account],
    random: &mut ChaCha8Rng,
    out: &mut Vec<Transfer>,
) {
    let payday = 24 + (number % 5) as i64;
    if day % 30 != payday {
        return;
    }
    let at = day * DAY + 6 * HOUR;
    for employee in &accounts[number].employees {
        let amount = log_normal(7.8, 0.35).sample(random);
        let place = (at + random.random_range(0..HOUR), number as u32, *employee);
        push(out, place, amount, Channel::Online);
    }
}

/// Cash that a shop brings: often, and sometimes as much as is reported, or nearly.
fn takings(
    day: i64,
    number: usize,
    accounts: &[Account],
    random: &mut ChaCha8Rng,
    out: &mut Vec<Transfer>,
) {
    let is_shop =
        accounts[number].owner == Owner::Business && number % 10 < (10.0 * SHOPS) as usize;
    if is_shop && random.random_bool(0.4) {
        let amount = log_normal(7.6, 0.8).sample(random);
        let at = day * DAY + 17 * HOUR + random.random_range(0..2 * HOUR);
        push(out, (at, CASH, number as u32), amount, Channel::Cash);
    } else if accounts[number].owner == Owner::Person && random.random_bool(0.006) {
        let amount = log_normal(6.2, 1.0).sample(random);
        push(out, (day * DAY + daytime(random), CASH, number as u32), amount, Channel::Cash);
    }
}

fn push(
    out: &mut Vec<Transfer>,
    (at, sender, receiver): (i64, u32, u32),
    amount: f64,
    channel: Channel,
) {
    if sender != receiver {
        let amount = cents(amount);
        out.push(Transfer { at, sender, receiver, amount, channel, typology: None });
    }
}
