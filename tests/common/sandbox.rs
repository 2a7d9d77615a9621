//! A container of a pod, run as the kubelet and a runtime would: with the pod's mounts, user, groups and environment, a root file system that can't be
//! written, no capability, and the service account's token where pods have it. The network is the machine's own. Needs root, to mount: without it
//! these tests fail.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::process::wait_for;

/// Where every pod finds what it proves itself to the API server with.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the program runs in.
pub enum Root<'a> {
    /// The machine's libraries, and this program: nothing else of an image.
    Program(&'a Path),
    /// The root file system of an image of ours (deploy/image).
    Image(&'a Path),
}

/// A pod, with volumes that outlive its containers.
pub struct Sandbox {
    folder: TempDir,
    pod: Value,
    mounts: Vec<(PathBuf, String, bool)>,
    environment: Vec<(String, String)>,
    user: u32,
    group: u32,
    volume_group: u32,
}

impl Sandbox {
    /// Of a pod's template. ConfigMaps and Secrets have these files; `token` and `ca` are the service account's, `port` is the API server's.
    pub fn new(pod: &Value, files: &BTreeMap<String, BTreeMap<String, String>>, (token, ca, port): (&str, &str, u16)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Containers aren't root: they must get in.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let context = &pod["spec"]["securityContext"];
        let number = |key: &str| u32::try_from(context[key].as_u64().unwrap_or_else(|| panic!("no {key}"))).unwrap();
        let (user, group, volume_group) = (number("runAsUser"), number("runAsGroup"), number("fsGroup"));
        let container = &pod["spec"]["containers"][0];
        let mut mounts = Vec::new();
        for mount in container["volumeMounts"].as_array().unwrap() {
            let name = mount["name"].as_str().unwrap();
            let path = folder.path().join("volumes").join(name);
            fs::create_dir_all(&path).unwrap();
            let volumes = pod["spec"]["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|volume| volume["name"] == name);
            // What isn't among the pod's volumes comes from a claim's template.
            let source = volume.and_then(|volume| volume["configMap"]["name"].as_str().or_else(|| volume["secret"]["secretName"].as_str()));
            for (file, text) in source.and_then(|source| files.get(source)).into_iter().flatten() {
                write(&path.join(file), text, volume_group, 0o440);
            }
            // A volume that has just been made, after the kubelet gave it to the group.
            chown(&path, Some(0), Some(volume_group)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(if source.is_some() { 0o755 } else { 0o2775 })).unwrap();
            mounts.push((path, mount["mountPath"].as_str().unwrap().to_owned(), mount["readOnly"] == true));
        }
        let account = folder.path().join("account");
        fs::create_dir(&account).unwrap();
        for (file, text) in [("token", token), ("ca.crt", ca), ("namespace", "meshmint-system")] {
            write(&account.join(file), text, volume_group, 0o640);
        }
        mounts.push((account, ACCOUNT.to_owned(), true));
        let variable = |each: &Value| (each["name"].as_str().unwrap().to_owned(), each["value"].as_str().unwrap().to_owned());
        let mut environment: Vec<_> = container["env"].as_array().into_iter().flatten().map(variable).collect();
        environment
            .extend([("KUBERNETES_SERVICE_HOST".to_owned(), "127.0.0.1".to_owned()), ("KUBERNETES_SERVICE_PORT".to_owned(), port.to_string())]);
        Self { folder, pod: pod.clone(), mounts, environment, user, group, volume_group }
    }

    /// Where the pod sees `path`, on this machine.
    pub fn path(&self, path: &str) -> PathBuf {
        let (host, rest) =
            self.mounts.iter().find_map(|(host, at, _)| Some((host, path.strip_prefix(at.as_str())?.trim_start_matches('/')))).unwrap();
        host.join(rest)
    }

    /// The command that runs something in a container of this pod.
    fn command(&self, root: &Root<'_>, arguments: &[&str]) -> Command {
        let at = self.folder.path().join("root");
        fs::create_dir_all(&at).unwrap();
        let at = at.display();
        let mut script = String::from("set -e\nchroot=$(command -v chroot)\n");
        let program = match root {
            Root::Image(image) => {
                script += &format!("mount --bind '{}' '{at}'\ncd '{at}'\n", image.display());
                "/usr/bin/meshmint"
            }
            Root::Program(program) => {
                script += &format!(
                    "mount -t tmpfs -o mode=755 meshmint-test '{at}'\ncd '{at}'\nmkdir usr app\nmount --bind /usr usr\ncp -a /lib /lib64 .\n"
                );
                script += &format!("touch app/meshmint\nmount --bind '{}' app/meshmint\n", program.display());
                "/app/meshmint"
            }
        };
        script += "mkdir -p proc\nmount --bind /proc proc\n";
        for (host, mount, read_only) in &self.mounts {
            script += &format!("mkdir -p '.{mount}'\nmount --bind '{}' '.{mount}'\n", host.display());
            if *read_only {
                script += &format!("mount -o remount,bind,ro '.{mount}'\n");
            }
        }
        if self.pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] == true {
            script += &format!("mount -o remount,bind,ro '{at}'\n");
        }
        let environment: Vec<_> = self.environment.iter().map(|(name, value)| format!("{name}='{value}'")).collect();
        script += &format!(
            "exec env -i {} \"$chroot\" --userspec={}:{} --groups={} '{at}' {program} \"$@\"\n",
            environment.join(" "),
            self.user,
            self.group,
            self.volume_group,
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "setpriv", "--no-new-privs", "sh", "-c", &script, "sh"]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command of meshmint in a container of this pod, to its end.
    pub fn run(&self, root: &Root<'_>, arguments: &[&str]) -> Output {
        self.command(root, arguments).output().unwrap()
    }

    /// Starts the pod's container.
    pub fn start(&self, root: &Root<'_>) -> Container {
        let arguments = self.pod["spec"]["containers"][0]["args"].as_array().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.as_str().unwrap()).collect();
        let log = self.folder.path().join("log");
        let mut command = self.command(root, &arguments);
        command.stdout(fs::File::options().create(true).append(true).open(&log).unwrap());
        command.stderr(fs::File::options().create(true).append(true).open(&log).unwrap());
        Container { child: command.spawn().unwrap(), log }
    }
}

fn write(path: &Path, text: &str, group: u32, mode: u32) {
    fs::write(path, text).unwrap();
    chown(path, Some(0), Some(group)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A running container.
pub struct Container {
    child: Child,
    log: PathBuf,
}

impl Container {
    /// Everything that it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the probe answers as Kubernetes wants it.
    pub fn ready(&mut self, address: &str) {
        let child = &mut self.child;
        let log = self.log.clone();
        wait_for("the container to be ready", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it ended with {status}:\n{}", fs::read_to_string(&log).unwrap());
            }
            std::net::TcpStream::connect(address).ok()?;
            (super::process::get(address, "/readyz").0 == 200).then_some(())
        });
    }

    /// What the kernel says of the process, for example `Uid:`.
    pub fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.trim_start_matches(key).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// SIGTERM; waits for its end.
    pub fn stop(mut self) -> Option<i32> {
        super::process::terminate(&self.child);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may be dead already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
