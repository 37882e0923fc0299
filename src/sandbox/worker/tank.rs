//! The fuel of one guest whose own code counts it: one word in a memory that the guest cannot name.
//!
//! The host fills it before a program and reads it afterwards, whatever ended the program. A watchman that wants the
//! program to end closes it: the guest's next count is then a trap, without a second thing for its code to look at.

use std::io;
use std::sync::atomic::Ordering;

use super::raw::Grip;

/// Fuel for instantiating, which is not any program's doing.
const START: i64 = 2_000_000_000;

/// The fuel of one guest.
#[derive(Clone)]
pub(crate) struct Tank(Grip);

impl Tank {
    /// In a memory that is open and nobody else's.
    pub(super) fn new(grip: Grip) -> Self {
        grip.counter().store(START, Ordering::Relaxed);
        Self(grip)
    }

    /// Gives `units` for the next program; opens it where the last one was ended by closing it.
    ///
    /// # Errors
    /// The kernel does not let it be opened.
    pub(crate) fn fill(&self, units: u64) -> io::Result<()> {
        if self.0.is_closed() {
            self.0.close(false)?;
        }
        self.0.counter().store(i64::try_from(units).unwrap_or(i64::MAX), Ordering::Relaxed);
        Ok(())
    }

    /// What is left.
    pub(crate) fn left(&self) -> u64 {
        u64::try_from(self.0.counter().load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// True when the guest wanted more than there was.
    pub(crate) fn is_dry(&self) -> bool {
        self.0.counter().load(Ordering::Relaxed) < 0
    }

    /// Ends what runs, at its next count.
    ///
    /// # Errors
    /// The kernel does not let it be closed.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.0.close(true)
    }
}

#[cfg(test)]
mod tests {
    //! Small guests whose code was woven: what must count, what is counted, and how one is ended.

    use std::thread;
    use std::time::Duration;

    use wasmtime::{Engine, Instance, Module, Store, Trap};

    use super::super::engine::{Count, engine};
    use super::super::memories::Memories;
    use super::*;
    use crate::sandbox::weave;

    struct Guest {
        store: Store<()>,
        instance: Instance,
        tank: Tank,
    }

    impl Guest {
        /// Of the module in `text`, with its counting woven in.
        fn new(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let image = folder.path().join("image");
            std::fs::write(&image, vec![0; 2 * weave::MEMORY]).unwrap();
            let engine = engine(1 << 20, Count::Guest, Some(Memories::open(&image).unwrap())).unwrap();
            Self::of(&engine, text)
        }

        fn of(engine: &Engine, text: &str) -> Self {
            let woven = weave::weave(&wat::parse_str(format!("(component (core module {text}))")).unwrap()).unwrap();
            let mut module = None;
            for payload in wasmparser::Parser::new(0).parse_all(&woven) {
                if let wasmparser::Payload::ModuleSection { unchecked_range, .. } = payload.unwrap() {
                    module = Some(Module::new(engine, &woven[unchecked_range]).unwrap());
                }
            }
            let mut store = Store::new(engine, ());
            let (instance, _, tank) = Memories::with_size(None, || Instance::new(&mut store, &module.unwrap(), &[]));
            Self { instance: instance.unwrap(), tank: tank.unwrap(), store }
        }

        /// What `name` ends with when it has `fuel`, and what it used.
        fn run(&mut self, name: &str, fuel: u64) -> (Result<(), Trap>, u64) {
            let function = self.instance.get_typed_func::<(), ()>(&mut self.store, name).unwrap();
            self.tank.fill(fuel).unwrap();
            let ended = function.call(&mut self.store, ()).map_err(|error| error.downcast().unwrap());
            (ended, fuel - self.tank.left())
        }
    }

    const ENDLESS: &str = r#"(memory 2) (table funcref (elem $ring)) (type $f (func))
        (func (export "spin") (loop $on (br $on)))
        (func (export "spin in a branch") (loop $on (if (i32.const 1) (then (br $on)))))
        (func (export "deep") (call $one))
        (func $one (call $two)) (func $two (if (i32.const 1) (then (call $one))))
        (func $ring (export "ring") (loop $on (call_indirect (type $f) (i32.const 0)) (br $on)))
        (func (export "call in a loop") (loop $on (call $leaf) (br $on)))
        (func $leaf (drop (i32.add (i32.const 1) (i32.const 2))))
        (func (export "fill") (memory.fill (i32.const 0) (i32.const 7) (i32.const 100000)))
        (func (export "copy") (memory.copy (i32.const 0) (i32.const 9) (i32.const 100000)))"#;

    #[test]
    fn every_loop_every_cycle_of_calls_and_every_long_operation_ends_at_the_limit() {
        let mut guest = Guest::new(ENDLESS);
        for name in ["spin", "spin in a branch", "call in a loop", "deep", "ring", "fill", "copy"] {
            let (ended, used) = guest.run(name, 3_000);
            assert_eq!((ended, used), (Err(Trap::UnreachableCodeReached), 3_000), "{name}");
            assert!(guest.tank.is_dry(), "{name}");
        }
    }

    #[test]
    fn calls_that_fan_out_count_before_they_are_many() {
        // Each function calls the next one four times: a million calls without one loop.
        let mut text = String::from("(memory 2) (func $f10 (drop (i32.const 1)))");
        for level in 0..10 {
            let export = if level == 0 { "(export \"tree\")" } else { "" };
            text += &format!("(func $f{level} {export} {})", format!("(call $f{})", level + 1).repeat(4));
        }
        let mut guest = Guest::new(&text);
        let (ended, _) = guest.run("tree", 100_000);
        assert_eq!(ended, Err(Trap::UnreachableCodeReached));
        let (ended, used) = guest.run("tree", 100_000_000);
        assert_eq!(ended, Ok(()));
        // 1,048,576 leaves of one operator, and a call for each and for each fourth, sixteenth and so on of them.
        assert!((2_000_000..3_500_000).contains(&used), "{used}");
    }

    #[test]
    fn what_is_used_follows_from_the_code_alone() {
        let text = r#"(memory 2)
            (func (export "sum") (local $i i32)
                (loop $on
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $on (i32.lt_u (local.get $i) (i32.const 100)))))
            (func (export "fill") (memory.fill (i32.const 0) (i32.const 7) (i32.const 5000)))"#;
        let mut guest = Guest::new(text);
        // Nothing before the loop, which counts one; eight operators a round.
        assert_eq!(guest.run("sum", 10_000), (Ok(()), 1 + 100 * 8));
        assert_eq!(guest.run("fill", 10_000), (Ok(()), 4 + 5_000));
        let exact = guest.run("sum", 801);
        assert_eq!(exact, (Ok(()), 801), "the last unit can be used");
        assert!(guest.run("sum", 800).0.is_err(), "and none beyond");
    }

    #[test]
    fn a_guest_that_computes_is_ended_by_closing_its_fuel_and_can_be_filled_again() {
        let mut guest = Guest::new(ENDLESS);
        let tank = guest.tank.clone();
        let watchman = thread::spawn(move || {
            while tank.left() > u64::MAX / 2 - 1_000 {
                thread::sleep(Duration::from_millis(1));
            }
            tank.close().unwrap();
        });
        let (ended, _) = guest.run("spin", u64::MAX / 2);
        watchman.join().unwrap();
        assert_eq!(ended, Err(Trap::MemoryOutOfBounds));
        assert!(!guest.tank.is_dry());
        assert_eq!(guest.run("spin", 100).0, Err(Trap::UnreachableCodeReached), "open again");
    }

    #[test]
    fn a_closed_tank_is_not_given_to_the_next_guest() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::write(&image, vec![0; 2 * weave::MEMORY]).unwrap();
        let engine = engine(1 << 20, Count::Guest, Some(Memories::open(&image).unwrap())).unwrap();
        for _ in 0..3 {
            let mut guest = Guest::of(&engine, ENDLESS);
            assert_eq!(guest.tank.left(), u64::try_from(START).unwrap(), "as it was when it was new");
            assert!(guest.run("spin", 100).0.is_err());
            guest.tank.close().unwrap();
        }
    }
}
