//! How often one address may do something: a token bucket for each, in bounded memory.
//!
//! The generic cell rate algorithm keeps a single number per address, the time at which its bucket
//! is full again. Addresses of IPv6 count by their network of 64 bits, which one client has at least.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::sync::Cache;
use tokio::time::Instant;

/// Addresses remembered; those that come often stay.
const ADDRESSES: u64 = 50_000;
const MINUTE: u64 = 60_000_000_000;

/// A bound on what each address does in a minute, all of which may be at once.
pub struct AddressLimiter {
    /// Nanoseconds between two at an even pace; 0 sets no bound.
    pace: u64,
    start: Instant,
    full_at: Cache<IpAddr, Arc<AtomicU64>>,
}

impl AddressLimiter {
    /// So many a minute from each address; 0 sets no bound.
    pub fn per_minute(most: u32) -> Self {
        Self {
            pace: MINUTE.checked_div(most.into()).unwrap_or(0),
            start: Instant::now(),
            full_at: Cache::builder()
                .max_capacity(ADDRESSES)
                // After this its bucket is full, as that of an address never seen.
                .time_to_idle(Duration::from_nanos(MINUTE))
                .build(),
        }
    }

    /// Whether the address has some left.
    ///
    /// # Errors
    /// When it has again.
    pub fn check(&self, address: IpAddr) -> Result<(), Duration> {
        if self.pace == 0 {
            return Ok(());
        }
        let Some(full_at) = self.full_at.get(&key(address)) else {
            return Ok(());
        };
        self.left(full_at.load(Relaxed))
    }

    /// Takes one of the address's.
    ///
    /// # Errors
    /// When it has one again; none is taken.
    pub fn take(&self, address: IpAddr) -> Result<(), Duration> {
        if self.pace == 0 {
            return Ok(());
        }
        let full_at = self.full_at.get_with(key(address), Arc::default);
        let taken = full_at.fetch_update(Relaxed, Relaxed, |at| {
            self.left(at).ok()?;
            Some(at.max(self.now()) + self.pace)
        });
        taken.map(drop).or_else(|at| self.left(at))
    }

    fn left(&self, full_at: u64) -> Result<(), Duration> {
        // One more must fit into what a minute fills.
        let needed = (full_at + self.pace).saturating_sub(self.now());
        match needed.checked_sub(self.pace * (MINUTE / self.pace)) {
            None | Some(0) => Ok(()),
            Some(wait) => Err(Duration::from_nanos(wait)),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_own_bucket_which_fills_evenly() {
        let limiter = AddressLimiter::per_minute(60);
        let at = |text: &str| text.parse::<IpAddr>().expect("an address");
        for n in 0..60 {
            assert!(limiter.check(at("10.0.0.1")).is_ok(), "{n}");
            assert!(limiter.take(at("10.0.0.1")).is_ok(), "{n}");
        }
        let wait = limiter.take(at("10.0.0.1")).expect_err("empty");
        assert!(
            wait <= Duration::from_secs(1) && !wait.is_zero(),
            "{wait:?}"
        );
        assert!(limiter.check(at("10.0.0.1")).is_err());
        assert!(limiter.check(at("::ffff:10.0.0.1")).is_err(), "the same");
        assert!(limiter.take(at("10.0.0.2")).is_ok(), "another");
        tokio::time::advance(wait).await;
        assert!(limiter.take(at("10.0.0.1")).is_ok(), "one again");
        assert!(limiter.take(at("10.0.0.1")).is_err(), "and no more");
        // One client has a network of IPv6.
        for n in 0..60 {
            assert!(limiter.take(at(&format!("2001:db8::{n}"))).is_ok());
        }
        assert!(limiter.take(at("2001:db8::ffff")).is_err());
        assert!(limiter.take(at("2001:db8:0:1::1")).is_ok());
        let none = AddressLimiter::per_minute(0);
        assert!((0..1000).all(|_| none.take(at("10.0.0.1")).is_ok()));
    }
}
