//! Randomness, from the operating system's generator.

use std::time::Duration;

use changeover_token::Life;
use rand::{TryCryptoRng, TryRng};

use crate::{error::Error, ports::Ports};

impl Ports {
    /// Returns the source of randomness, for callers that draw from one.
    pub fn random(&self) -> Random<'_> {
        Random(self)
    }

    /// Returns a new name that is unique: 128 random bits in hex.
    ///
    /// # Errors
    /// If the source has none.
    pub fn random_name(&self) -> Result<String, Error> {
        let mut bytes = [0; 16];
        (self.random_source)(&mut bytes)?;
        Ok(hex::encode(bytes))
    }

    /// Returns the life of a record that is created now.
    ///
    /// # Errors
    /// If the source has none.
    pub fn random_life(&self) -> Result<Life, Error> {
        Ok(Life::new(self.clock.now(), self.random().try_next_u32()?))
    }

    /// Returns a pause of random length up to `longest`, so that callers that collided on one record spread
    /// out ("full jitter" of "Exponential Backoff And Jitter", AWS Architecture Blog).
    ///
    /// # Errors
    /// If the source has none.
    pub fn random_pause(&self, longest: Duration) -> Result<Duration, Error> {
        Ok(longest.mul_f64(f64::from(self.random().try_next_u32()?) / f64::from(u32::MAX)))
    }
}

/// The world's source of randomness.
pub struct Random<'a>(&'a Ports);

impl TryRng for Random<'_> {
    type Error = Error;

    fn try_next_u32(&mut self) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        (self.0.random_source)(bytes)
    }
}

impl TryCryptoRng for Random<'_> {}
