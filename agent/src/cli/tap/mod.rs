//! `waxseal tap`: connections as they are judged.

mod arguments;
mod follow;
mod lanes;
mod merge;
mod nodes;
mod render;

use std::io::{self, BufWriter, IsTerminal};

use super::Common;
use super::exit::{Ended, Exit};
use crate::flows::Time;

pub(super) use arguments::Arguments;
use follow::{Follow, Stopped};
use merge::Merge;
use render::{Render, Sink};

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let started = Time::now();
    let config = common.configuration()?;
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let colour = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    let mut render = arguments.render(colour, terminal);
    let others = nodes::resolve(arguments.others(), &config, arguments.reconnects())?;
    render.look.nodes = !others.is_empty();
    let mut sink = Sink::new(render, BufWriter::new(stdout.lock()));
    if !others.is_empty() {
        sink.begin()?;
        let (request, every) = (arguments.request(started), arguments.every());
        return merge::run(
            &Merge { config, request, others, reconnect: arguments.reconnects(), every },
            &mut sink,
        );
    }
    let mut follow = Follow {
        connect: || super::connect(&config),
        request: arguments.request(started),
        reconnect: arguments.reconnects(),
        every: arguments.every(),
    };
    sink.begin()?;
    match follow.run(&mut sink)? {
        Stopped::Done => Ok(Exit::Done),
        Stopped::ByAgent => {
            Err(Ended { exit: Exit::NotReachable, message: "the agent closed the tap".to_owned() }.into())
        }
    }
}

#[cfg(test)]
mod tests;
