//! A demonstration of the 911 protocol: the token is lost and made anew, step by step, in the paper's words.

use crate::world::{Failure, World, WorldOptions};
use rain_ring::{CallerState, Denial, Notification, Phase, ProtocolStep};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// Plays the demonstration; every line goes to `say`. Fails when an invariant of the ring does not hold.
pub fn play(say: fn(&str)) -> Result<(), Failure> {
    say(
        "Four nodes, A = 1 to D = 4, start. Each is STARVING (it has seen no token) and calls 911 for the right to make one.\n",
    );
    let mut options = WorldOptions::quiet(4);
    options.drift = 0;
    options.refuses = false;
    let mut world = World::new(4, options);
    world.say = Some(say);
    world.run_until(Duration::from_secs(2), World::is_agreed)?;
    say("\nOne ring. The token goes round: HUNGRY nodes wait, the one that has it is EATING.\n");
    world.run_for(MS * 60)?;
    let holder = loop {
        let eating =
            |world: &World| (0..4).find(|at| world.node(*at).is_some_and(|n| n.phase() == Phase::Eating));
        if let Some(at) = eating(&world) {
            break at;
        }
        world.run_for(MS)?;
    };
    say(&format!(
        "\nNode {} is EATING. It is killed now, and the token is gone with it. (No machine answers for it, so the others \
                  can only wait.)\n",
        holder + 1
    ));
    world.kill(holder);
    world.run_until(world.now + MS * 2000, |world| world.is_out(holder))?;
    say(
        "\nThe token lives again, in a new epoch; a node that has promised this epoch accepts no token of an older one. The sequence number goes on.\n",
    );
    world.run_for(MS * 55)?;
    say(&format!(
        "\nNode {} starts again. It remembers only its promises and is STARVING; its 911 is a request to join.\n",
        holder + 1
    ));
    world.start(holder);
    world.run_until(world.now + MS * 2000, World::is_agreed)?;
    say(
        "\nThe network splits into halves: 1 and 2 on one side, 3 and 4 on the other. Neither half is a majority.\n",
    );
    world.partition(&[0, 1].into());
    world.run_for(MS * 700)?;
    say("\nThe network is whole again. The two rings find each other; the lower one joins the higher one.\n");
    world.heal();
    world.run_until(world.now + MS * 3000, World::is_agreed)?;
    world.run_for(MS * 60)?;
    Ok(())
}

/// One step as a sentence; none for a step that the demonstration leaves out.
pub(crate) fn tell(now: Duration, node: usize, request: &Notification) -> Option<String> {
    let sentence = match request {
        Notification::View(view) => {
            let members: Vec<String> = view.members.iter().map(|member| member.node.to_string()).collect();
            let kind = if view.primary { "primary" } else { "orphan" };
            format!("has the view {} ({kind}): {}", view.epoch, members.join(" > "))
        }
        Notification::Step(step) => match step {
            ProtocolStep::Took(stamp) => format!("EATING: took the token {stamp}"),
            ProtocolStep::Passed { to, stamp } => format!("HUNGRY: passes the token to {to} as {stamp}"),
            ProtocolStep::PassFailed { to } => {
                format!("has no acknowledgement from {to} after all tries: the pass has failed")
            }
            ProtocolStep::Starves => "STARVING: the token has not come".into(),
            ProtocolStep::Called { epoch, caller_state: CallerState::Starving } => {
                format!("calls 911: may I make the token of epoch {epoch}?")
            }
            ProtocolStep::Called { epoch, caller_state: CallerState::Holder } => {
                format!("holds the token and calls 911 for other members: epoch {epoch}")
            }
            ProtocolStep::Granted { to, epoch } => {
                format!("grants {to} epoch {epoch}, and accepts nothing older")
            }
            ProtocolStep::Denied { to, epoch, why } => format!("denies {to} epoch {epoch}: {}", reason(*why)),
            ProtocolStep::Refused { .. } | ProtocolStep::Nonsense { .. } => return None,
            ProtocolStep::Founded(stamp) => format!("makes the token anew: {stamp}"),
            ProtocolStep::StaleToken { from, stamp } => format!("drops the stale token {stamp} from {from}"),
            ProtocolStep::Applied(member) => format!("will propose {} as a member of the ring", member.node),
            ProtocolStep::Synced { index } => format!("has all shared data again, up to entry {index}"),
        },
        Notification::Link(_)
        | Notification::Notice(_)
        | Notification::Master(_)
        | Notification::MasterLost
        | Notification::Left => {
            return None;
        }
    };
    Some(format!("{:>9.1} ms  node {}  {sentence}", now.as_secs_f64() * 1000.0, node + 1))
}

fn reason(why: Denial) -> &'static str {
    match why {
        Denial::Promised => "it has promised a newer one",
        Denial::NewerCopy => "it has a newer copy of the token",
        Denial::Joining => "it is in a ring, and that ring will call",
        Denial::Outranked => "its ring ranks higher",
        Denial::Configuration => "they know different eligible memberships",
    }
}
