//! Programs that work on trees of files: git, rsync, qemu-img, make.

use super::{ProgramsOptions, without};
use crate::data::bytes;
use crate::outside::process::{Running, find, run};
use crate::outside::report::Ending;
use crate::outside::stage::Stage;
use anyhow::{Context, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest time that one command may take.
const WITHIN: Duration = Duration::from_secs(180);

/// Generated C files.
const UNITS: u32 = 80;

fn is_missing(program: &str) -> bool {
    find(program, &[]).is_none()
}

/// Writes a tree of files of many lengths, with what an archive has to keep.
fn tree(at: &Path, seed: u64) -> anyhow::Result<u64> {
    let mut files = 0;
    for folder in 0..12 {
        let folder_path = at.join(format!("folder-{folder}/below"));
        fs::create_dir_all(&folder_path)?;
        for file in 0..12u64 {
            let len = [0, 1, 700, 4096, 4097, 20_000, 65_536, 300_001][(file % 8) as usize] + file;
            let path = folder_path.join(format!("file-{file}"));
            fs::write(&path, bytes(seed + folder * 100 + file, 0, len as usize))?;
            files += 1;
            if file == 5 {
                fs::hard_link(&path, at.join(format!("hard-{folder}")))?;
                symlink(format!("folder-{folder}/below/file-5"), at.join(format!("symlink-{folder}")))?;
                let path = path.display().to_string();
                run(Command::new("chmod").args(["4750", &path]), WITHIN)?;
                if !is_missing("setfattr") {
                    run(Command::new("setfattr").args(["-n", "user.kept", "-v", "value", &path]), WITHIN)?;
                }
            }
        }
    }
    Ok(files)
}

pub(super) fn git(stage: &mut Stage, options: &ProgramsOptions) -> anyhow::Result<Ending> {
    if is_missing("git") {
        return without("git", "git");
    }
    let [here, there] = stage.folders("git")?;
    let git = |at: &Path, args: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "gc.auto=0"]);
        command.args(["-c", "safe.directory=*", "-C"]).arg(at).args(args).env("GIT_CONFIG_NOSYSTEM", "1");
        run(&mut command, WITHIN)
    };
    let (first, clone) = (here.join("first"), there.join("clone"));
    fs::create_dir(&first)?;
    git(&first, &["init", "-q", "-b", "main"])?;
    let begun = Instant::now();
    let mut commits = 0;
    while commits < 3 || begun.elapsed() < Duration::from_secs(options.seconds) {
        fs::create_dir(first.join(format!("part-{commits}")))?;
        tree(&first.join(format!("part-{commits}")), commits * 10_000)?;
        git(&first, &["add", "-A"])?;
        git(&first, &["commit", "-qm", "one more"])?;
        if commits == 0 {
            let from = format!("file://{}", there.join("first").display());
            git(&there, &["clone", "-q", "--no-local", &from, "clone"])?;
        } else {
            git(&clone, &["pull", "-q", "--ff-only"])?;
        }
        if commits % 3 == 2 {
            git(&first, &["gc", "-q", "--prune=now"])?;
        }
        commits += 1;
    }
    for repository in [&first, &clone, &there.join("first")] {
        git(repository, &["fsck", "--full", "--strict"])?;
        let changed = git(repository, &["status", "--porcelain"])?;
        ensure!(changed.is_empty(), "git status in {}: {changed}", repository.display());
    }
    let heads = [git(&first, &["rev-parse", "HEAD"])?, git(&clone, &["rev-parse", "HEAD"])?];
    ensure!(heads[0] == heads[1], "the clone is not at the last commit");
    Ok(Ending::Right(format!("{commits} commits")))
}

pub(super) fn rsync(stage: &mut Stage, _: &ProgramsOptions) -> anyhow::Result<Ending> {
    if is_missing("rsync") {
        return without("rsync", "rsync");
    }
    let [here, there] = stage.folders("rsync")?;
    let from = stage.local().join("rsync-from");
    let files = tree(&from, 77)?;
    let rsync = |to: &Path, more: &[&str]| {
        let (from, to) = (format!("{}/", from.display()), format!("{}/", to.display()));
        run(Command::new("rsync").arg("-aHAXi").args(more).args([from, to]), WITHIN)
    };
    rsync(&here, &[])?;
    for (to, more) in [(&here, &[][..]), (&there, &[][..]), (&there, &["--checksum"][..])] {
        let again = rsync(to, more)?;
        ensure!(again.is_empty(), "a second rsync {more:?} still transfers: {again}");
    }
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(&from).arg(&there), WITHIN)?;
    Ok(Ending::Right(format!("{files} files; the second transfers nothing")))
}

pub(super) fn qemu_img(stage: &mut Stage, _: &ProgramsOptions) -> anyhow::Result<Ending> {
    if is_missing("qemu-img") {
        return without("qemu-img", "qemu-utils");
    }
    let [here, there] = stage.folders("qemu-img")?;
    let qemu = |args: &[&str]| run(Command::new("qemu-img").args(args), WITHIN);
    let raw = stage.local().join("image.raw");
    fs::write(&raw, bytes(5, 0, 40 << 20))?;
    let raw = raw.display().to_string();
    let at = |folder: &Path, name: &str| folder.join(name).display().to_string();
    let (image, thin, back) = (at(&here, "image.qcow2"), at(&here, "thin.qcow2"), at(&here, "back.raw"));
    qemu(&["create", "-q", "-f", "qcow2", &thin, "4G"])?;
    qemu(&["check", "-q", &thin])?;
    for cache in ["none", "writeback"] {
        qemu(&["convert", "-q", "-t", cache, "-T", cache, "-O", "qcow2", &raw, &image])?;
        qemu(&["check", "-q", &at(&there, "image.qcow2")])?;
        qemu(&["compare", "-q", "-F", "qcow2", "-f", "raw", &raw, &at(&there, "image.qcow2")])?;
        qemu(&["convert", "-q", "-t", cache, "-T", cache, "-O", "raw", &at(&there, "image.qcow2"), &back])?;
        run(Command::new("cmp").args([&raw, &back]), WITHIN)?;
    }
    qemu(&["resize", "-q", &image, "+1G"])?;
    qemu(&["check", "-q", &at(&there, "image.qcow2")])?;
    Ok(Ending::Right("40 MiB there and back, cached and direct".into()))
}

pub(super) fn make(stage: &mut Stage, _: &ProgramsOptions) -> anyhow::Result<Ending> {
    for (program, package) in [("make", "make"), ("gcc", "gcc")] {
        if is_missing(program) {
            return without(program, package);
        }
    }
    let [here, there] = stage.folders("make")?;
    fs::write(here.join("common.h"), "#define STEP 3\n")?;
    let (mut declared, mut called) = (String::new(), String::new());
    for unit in 0..UNITS {
        let text = format!("#include \"common.h\"\nint f{unit}(void) {{ return {unit} * STEP; }}\n");
        fs::write(here.join(format!("f{unit}.c")), text)?;
        declared += &format!("int f{unit}(void);\n");
        called += &format!("+f{unit}()");
    }
    let main = format!(
        "#include <stdio.h>\n{declared}int main(void) {{ printf(\"%d\\n\", {called}); return 0; }}\n"
    );
    fs::write(here.join("main.c"), main)?;
    let objects = |half: u32| {
        let units = (0..UNITS).filter(|unit| unit % 2 == half);
        units.map(|unit| format!("f{unit}.o ")).collect::<String>()
    };
    let makefile = format!(
        "all: prog\neven: {}\nodd: {}\nprog: main.o {}{}\n\tgcc -o $@ $^\n%.o: %.c common.h\n\tgcc -c -o $@ $<\n",
        objects(0),
        objects(1),
        objects(0),
        objects(1)
    );
    fs::write(here.join("Makefile"), makefile)?;
    let build = |at: &Path, goal: &str| {
        let mut command = Command::new("make");
        command.args(["-j4", "-C"]).arg(at).arg(goal);
        Running::start(&mut command)
    };
    let halves = [build(&here, "even")?, build(&there, "odd")?];
    halves.into_iter().try_for_each(|half| half.wait(WITHIN)?.right().map(drop))?;
    let said = build(&there, "all")?.wait(WITHIN)?.right()?;
    ensure!(!said.contains("-c -o f"), "objects were built again: {said}");
    let expected = (0..UNITS).sum::<u32>() * 3;
    for at in [&here, &there] {
        run(Command::new("make").args(["-q", "-C"]).arg(at).arg("all"), WITHIN)
            .context("it is not up to date")?;
        let answer = run(&mut Command::new(at.join("prog")), WITHIN)?;
        ensure!(answer.trim() == expected.to_string(), "the program says {answer}, not {expected}");
    }
    Ok(Ending::Right(format!("{UNITS} objects")))
}
