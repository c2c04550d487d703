//! `codexd config set` and `unset`.

use std::fs;

use anyhow::ensure;
use codexd_testkit::{Codexd, Home};

const FILE: &str = "# all mine\n\numask = \"027\" # for the group\n\n[gateway] # the gateway\n# only here\nlisten = \"ws://127.0.0.1:1\"\n";

#[test]
fn an_edit_keeps_comments_and_says_what_is_in_force() -> anyhow::Result<()> {
    let home = Home::new()?;
    let path = home.write("codexd.toml", FILE)?;
    let codexd = Codexd::new(&home)?;
    let set = codexd.json(&["config", "set", "umask", "022"])?;
    ensure!(set["status"] == "set" && set["value"] == "022" && set["origin"]["line"] == 3, "{set}");
    ensure!(fs::read_to_string(&path)? == FILE.replace("\"027\"", "\"022\""));
    ensure!(codexd.json(&["config", "set", "umask", "022"])?["status"] == "unchanged");
    let unset = codexd.json(&["config", "unset", "gateway.listen"])?;
    ensure!(unset["status"] == "unset" && unset["value"].is_null(), "{unset}");
    let expected = FILE.replace("\"027\"", "\"022\"").replace("listen = \"ws://127.0.0.1:1\"\n", "");
    ensure!(fs::read_to_string(&path)? == expected, "{}", fs::read_to_string(&path)?);
    ensure!(codexd.json(&["config", "unset", "gateway.listen"])?["status"] == "unchanged");
    let hidden = codexd.env("CODEXD_UMASK", "077").json(&["config", "set", "umask", "000"])?;
    ensure!(hidden["value"] == "077" && hidden["hint"].to_string().contains("CODEXD_UMASK"), "{hidden}");
    let events = fs::read_to_string(home.state("events.jsonl"))?;
    ensure!(events.matches("\"config.changed\"").count() == 3, "{events}");
    Ok(())
}

#[test]
fn a_value_that_does_not_fit_the_others_is_not_written_and_a_bad_key_can_be_removed() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let run = codexd.run(&["config", "set", "gateway.listen", "ws://0.0.0.0:1"])?;
    ensure!(run.code() == Some(30) && run.stderr.contains("allowNonLoopback"), "{run}");
    ensure!(!home.path().join("codexd.toml").exists(), "it was written");
    codexd.json(&["config", "set", "gateway.allowNonLoopback", "true"])?;
    codexd.json(&["config", "set", "gateway.listen", "ws://0.0.0.0:1"])?;
    let refused = codexd.run(&["config", "unset", "gateway.allowNonLoopback"])?;
    ensure!(refused.code() == Some(30), "{refused}");

    let path = home.write("codexd.toml", "umsk = \"022\"\nnodeId = 5\n")?;
    ensure!(codexd.json(&["config", "unset", "umsk"])?["status"] == "unset");
    codexd.json(&["config", "set", "nodeId", "here"])?;
    ensure!(fs::read_to_string(&path)? == "nodeId = \"here\"\n");
    fs::write(&path, "nodeId = \n")?;
    let run = codexd.run(&["config", "set", "umask", "022"])?;
    ensure!(run.code() == Some(30) && run.stderr.contains("line 1"), "{run}");
    ensure!(fs::read_to_string(&path)? == "nodeId = \n");
    Ok(())
}
