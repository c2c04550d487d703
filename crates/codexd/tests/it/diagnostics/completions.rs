//! `codexd completions`.

use codexd_testkit::{Codexd, Home};

#[test]
fn a_script_for_each_shell_names_the_commands() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    for (shell, mark) in [("bash", "complete "), ("zsh", "#compdef codexd"), ("fish", "complete -c codexd")] {
        let run = codexd.run(&["completions", shell])?;
        anyhow::ensure!(run.success() && run.stderr.is_empty(), "{shell}: {run}");
        anyhow::ensure!(run.stdout.contains(mark), "{shell}: {run}");
        for command in ["start", "reload", "enable-remote-control", "logs"] {
            anyhow::ensure!(run.stdout.contains(command), "{shell} completes {command}");
        }
    }
    let run = codexd.run(&["completions", "tcsh"])?;
    anyhow::ensure!(run.json()?["error"]["code"] == "bad-arguments", "{run}");
    Ok(())
}

#[test]
fn bash_completes_a_command_and_an_option() -> anyhow::Result<()> {
    let home = Home::new()?;
    let script = home.write("codexd.bash", Codexd::new(&home)?.run(&["completions", "bash"])?.stdout)?;
    let complete = |words: &str| -> anyhow::Result<String> {
        let mut bash = std::process::Command::new("bash");
        let count = words.split(' ').count() - 1;
        bash.args(["--norc", "-c"]).arg(format!(
            ". {}; COMP_WORDS=({words}); COMP_CWORD={count}; _codexd codexd '{}' x; echo \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.rsplit(' ').next().unwrap_or_default()
        ));
        Ok(String::from_utf8(bash.output()?.stdout)?)
    };
    anyhow::ensure!(complete("codexd relo")?.trim() == "reload");
    anyhow::ensure!(complete("codexd status --wa")?.trim() == "--wait");
    Ok(())
}
