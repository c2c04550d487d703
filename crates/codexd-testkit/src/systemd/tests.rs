//! The harness itself: what it starts is what a machine that was booted with systemd has, and nothing of it is left.

use std::time::Duration;

use super::{UserManager, available};
use crate::{limits, skip, until};

#[test]
fn a_unit_is_started_survives_a_reboot_if_it_is_enabled_and_is_gone_with_the_manager() -> anyhow::Result<()> {
    if let Err(reason) = available() {
        skip!("{reason}");
    }
    let mut manager = UserManager::start()?;
    let units = manager.user_home().join(".config/systemd/user");
    std::fs::create_dir_all(&units)?;
    let text = "[Service]\nExecStart=sleep 1000000\n[Install]\nWantedBy=default.target\n";
    std::fs::write(units.join("sleeper.service"), text)?;
    manager.own_user_home()?;
    manager.systemctl(&["daemon-reload"])?;
    manager.systemctl(&["enable", "sleeper.service"])?;
    assert_eq!(manager.property("sleeper.service", "ActiveState")?, "inactive");
    let boot = manager.run(&["cat", "/proc/sys/kernel/random/boot_id"])?.stdout;
    manager.reboot()?;
    assert_ne!(manager.run(&["cat", "/proc/sys/kernel/random/boot_id"])?.stdout, boot);
    until(Duration::from_secs(20), "the enabled unit", || {
        manager.property("sleeper.service", "ActiveState").ok().filter(|state| state == "active")
    })?;
    let (init, cgroup) = (manager.init().cloned(), manager.cgroup.clone());
    let user = manager.run(&["id", "-u"])?.stdout;
    assert_eq!(user.trim(), manager.user_id().to_string());
    drop(manager);
    assert!(init.is_some_and(|init| !init.is_alive()) && !cgroup.exists());
    Ok(())
}

#[test]
fn everything_ends_with_the_process_that_started_it() -> anyhow::Result<()> {
    if let Err(reason) = available() {
        skip!("{reason}");
    }
    let mut manager = UserManager::start()?;
    let init = manager.init().cloned().expect("it is up");
    let namespaces = manager.namespaces.as_mut().expect("it is up");
    // What the kernel does when the test is killed.
    drop(namespaces.stdin.take());
    init.wait_gone(limits::PROCESS_GONE)
}
