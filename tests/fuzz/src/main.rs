//! Built by `cargo xtask fuzz` with `--cfg fuzzing`, this is libFuzzer working on the one target that
//! `WAXSEAL_FUZZ_TARGET` names. Built plainly it is not the fuzzer: `waxseal-fuzz TARGET FILE...` puts files to a target,
//! which is how a finding is looked at in a debugger.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod fuzzer {
    use std::sync::OnceLock;

    use waxseal_fuzz::{Target, target};

    /// Names the target.
    const VARIABLE: &str = "WAXSEAL_FUZZ_TARGET";

    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

    libfuzzer_sys::fuzz_target!(
        init: {
            let name = std::env::var(VARIABLE).unwrap_or_default();
            let Some(chosen) = target(&name) else { panic!("{VARIABLE} names no target: {name:?}") };
            CHOSEN.get_or_init(|| chosen);
        },
        |bytes: &[u8]| {
            if let Some(chosen) = CHOSEN.get() {
                (chosen.run)(bytes);
            }
        }
    );
}

#[cfg(not(fuzzing))]
fn main() -> anyhow::Result<()> {
    use anyhow::Context as _;

    let mut arguments = std::env::args_os().skip(1);
    let name = arguments.next().unwrap_or_default();
    let names = || waxseal_fuzz::TARGETS.map(|target| target.name).join(", ");
    let target = waxseal_fuzz::target(&name.to_string_lossy())
        .with_context(|| format!("waxseal-fuzz TARGET FILE...; the targets are {}", names()))?;
    for file in arguments {
        let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        (target.run)(&bytes);
    }
    Ok(())
}
