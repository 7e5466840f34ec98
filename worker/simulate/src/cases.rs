//! Laundering, of four kinds.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::population::{Account, Owner, log_normal};
use crate::{CASH, Channel, DAY, HOUR, Options, REPORTED, Transfer, cents};
use rand_distr::Distribution as _;

/// How money is laundered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typology {
    /// Cash in parts that nobody has to report, then away with it.
    Structuring,
    /// Many pay one, who pays it on.
    FanIn,
    /// One who was paid pays many.
    FanOut,
    /// Money that goes through several accounts within hours.
    RapidMovement,
}

impl Typology {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Structuring, Self::FanIn, Self::FanOut, Self::RapidMovement];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Structuring => "structuring",
            Self::FanIn => "fan-in",
            Self::FanOut => "fan-out",
            Self::RapidMovement => "rapid-movement",
        }
    }
}

/// All cases of laundering, spread over the days.
pub(crate) fn cases(
    options: &Options,
    accounts: &[Account],
    random: &mut ChaCha8Rng,
) -> Vec<Transfer> {
    let months = f64::from(options.days) / 30.0;
    let count = (options.cases * accounts.len() as f64 / 1000.0 * months).round() as usize;
    let mut out = Vec::new();
    for number in 0..count {
        let typology = Typology::ALL[number % Typology::ALL.len()];
        let begin = random.random_range(0..i64::from(options.days) * DAY);
        let mut case = Case { typology, accounts, random, out: &mut out };
        match typology {
            Typology::Structuring => case.structuring(begin),
            Typology::FanIn => case.fan_in(begin),
            Typology::FanOut => case.fan_out(begin),
            Typology::RapidMovement => case.rapid_movement(begin),
        }
    }
    out
}

struct Case<'a> {
    typology: Typology,
    accounts: &'a [Account],
    random: &'a mut ChaCha8Rng,
    out: &'a mut Vec<Transfer>,
}

impl Case<'_> {
    fn structuring(&mut self, begin: i64) {
        let mule = self.anybody();
        let span = self.random.random_range(2 * DAY..8 * DAY);
        let mut sum = 0.0;
        for _ in 0..self.random.random_range(5..18) {
            // Some are careful, and stay far below.
            let careful = self.random.random_bool(0.25);
            let share = if careful {
                self.random.random_range(0.25..0.8)
            } else {
                self.random.random_range(0.8..0.995)
            };
            let amount = REPORTED * share;
            let at = begin + self.random.random_range(0..span);
            sum += self.pay(at, (CASH, mule), amount, Channel::Cash);
        }
        let parts = self.random.random_range(1..4);
        let kept = self.random.random_range(0.9..0.98);
        self.pay_on(begin + span, mule, sum * kept, parts);
    }

    fn fan_in(&mut self, begin: i64) {
        let collector = self.anybody();
        let span = self.random.random_range(12 * HOUR..72 * HOUR);
        let scale = self.random.random_range(5.5..7.8);
        let mut sum = 0.0;
        for _ in 0..self.random.random_range(6..26) {
            let (sender, amount) = (self.anybody(), log_normal(scale, 0.4).sample(self.random));
            let at = begin + self.random.random_range(0..span);
            sum += self.pay(at, (sender, collector), amount, Channel::Online);
        }
        let kept = self.random.random_range(0.88..0.99);
        self.pay_on(begin + span, collector, sum * kept, 1);
    }

    fn fan_out(&mut self, begin: i64) {
        let (source, hub) = (self.anybody(), self.anybody());
        let sum = log_normal(9.8, 0.6).sample(self.random);
        self.pay(begin, (source, hub), sum, Channel::Wire);
        let span = self.random.random_range(6 * HOUR..48 * HOUR);
        let parts = self.random.random_range(6..26);
        for _ in 0..parts {
            let share = self.random.random_range(0.7..1.15) * 0.95 / f64::from(parts);
            let receiver = self.anybody();
            let at = begin + HOUR + self.random.random_range(0..span);
            self.pay(at, (hub, receiver), sum * share, Channel::Online);
        }
    }

    fn rapid_movement(&mut self, begin: i64) {
        let mut amount = log_normal(9.6, 0.8).sample(self.random);
        let (mut at, mut holder) = (begin, self.anybody());
        for _ in 0..self.random.random_range(3..7) {
            let next = self.anybody();
            self.pay(at, (holder, next), amount, Channel::Wire);
            at += self.random.random_range(5 * 60..6 * HOUR);
            amount *= self.random.random_range(0.95..0.995);
            holder = next;
        }
    }

    /// Sends money away soon after `at`.
    fn pay_on(&mut self, at: i64, sender: u32, sum: f64, parts: u32) {
        for _ in 0..parts {
            let receiver = self.anybody();
            let at = at + self.random.random_range(HOUR..30 * HOUR);
            self.pay(at, (sender, receiver), sum / f64::from(parts), Channel::Wire);
        }
    }

    fn pay(
        &mut self,
        at: i64,
        (sender, receiver): (u32, u32),
        amount: f64,
        channel: Channel,
    ) -> f64 {
        let amount = cents(amount);
        if sender != receiver {
            let typology = Some(self.typology);
            self.out.push(Transfer { at, sender, receiver, amount, channel, typology });
        }
        amount
    }

    /// An account; people's mostly, as most accounts are.
    fn anybody(&mut self) -> u32 {
        loop {
            let number = self.random.random_range(1..self.accounts.len());
            if self.accounts[number].owner == Owner::Person || self.random.random_bool(0.3) {
                return number as u32;
            }
        }
    }
}
