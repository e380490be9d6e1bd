//! The actors of a scenario while they are being put together.

use crate::emulator::actors::{Actor, ActorSpec, thread_name};

/// A list of actors that grows.
#[derive(Default)]
pub struct Cast(Vec<ActorSpec>);

impl Cast {
    /// Adds the actor `role/guest-N`.
    pub fn add(&mut self, role: &str, guest: u32, run: impl FnOnce(&mut Actor) + Send + 'static) {
        self.push(thread_name(role, guest), run);
    }

    /// Adds the actor `role/N`, which is no guest's.
    pub fn add_global(
        &mut self,
        role: &str,
        number: u32,
        run: impl FnOnce(&mut Actor) + Send + 'static,
    ) {
        self.push(format!("{role}/{number}"), run);
    }

    fn push(&mut self, name: String, run: impl FnOnce(&mut Actor) + Send + 'static) {
        self.0.push(ActorSpec {
            name,
            run: Box::new(run),
        });
    }

    /// The actors.
    pub fn specs(self) -> Vec<ActorSpec> {
        self.0
    }
}
