"""A private apt for each suite: its own directories, nothing of the system's dpkg, apt's own signature checks.

Which mirror is asked is what the host's own sources say. Source: apt.conf(5), sources.list(5), apt-get(8).
"""

import os
import platform
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from lab.process import CommandError, Unavailable, need, run

MIRROR, SECURITY_MIRROR = "MAPDEV_LAB_MIRROR", "MAPDEV_LAB_SECURITY_MIRROR"
"""Environment variables for hosts whose apt sources name no Debian mirror."""

_KEYRINGS = [Path("/usr/share/keyrings/debian-archive-keyring" + end) for end in (".pgp", ".gpg")]
_UPDATE_TIMEOUT, _RESOLVE_TIMEOUT, _DOWNLOAD_TIMEOUT, _UNPACK_TIMEOUT = 300, 120, 1800, 300


@dataclass(frozen=True)
class Package:
    """One line of ``--print-uris``: the file is what apt downloads, its hash is checked by apt."""

    name: str
    version: str
    file: str


def parse_uris(text: str) -> list[Package]:
    """The packages in what ``apt-get --print-uris`` prints: ``'URI' FILE SIZE HASH``."""
    found = re.finditer(r"^'[^']+' (([^_\s]+)_([^_\s]+)_[^_\s]+\.deb) \d+ ", text, re.MULTILINE)
    # in a file's name the colon of an epoch is written as in a URI
    return [Package(match[2], match[3].replace("%3a", ":"), match[1]) for match in found]


def parse_mirrors(text: str, codename: str) -> tuple[str, str] | None:
    """Mirror and security mirror in what ``apt-get indextargets`` prints as ``RELEASE URI``, for the host's release."""
    found = dict(reversed([line.split() for line in text.splitlines() if len(line.split()) == 2]))
    mirror, security = found.get(codename), found.get(codename + "-security")
    return (mirror, security) if mirror and security else None


async def mirrors() -> tuple[str, str]:
    """The Debian mirror and security mirror that this machine uses. Raises ``Unavailable``."""
    if os.environ.get(MIRROR):
        return os.environ[MIRROR], os.environ.get(SECURITY_MIRROR) or os.environ[MIRROR].rstrip("/") + "-security"
    release = platform.freedesktop_os_release()
    if release.get("ID") == "debian":
        command = [
            need("apt-get", "apt"),
            "indextargets",
            "--format",
            "$(RELEASE) $(REPO_URI)",
            "Created-By: Packages",
        ]
        text = await run("asking for the mirror", command, timeout=_RESOLVE_TIMEOUT)
        if found := parse_mirrors(text, release.get("VERSION_CODENAME", "")):
            return found
    raise Unavailable(f"this machine's apt sources name no Debian mirror; name one with {MIRROR}=URI")


@dataclass(frozen=True)
class Apt:
    """The apt of one suite, in `directory`. Two tasks must not use one at the same time."""

    suite: str
    directory: Path

    @property
    def archives(self) -> Path:
        """Where downloads go."""
        return self.directory / "archives"

    async def _configure(self) -> None:
        for name in ("lists/partial", "archives/partial", "etc"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").touch()
        keyring = next((path for path in _KEYRINGS if path.exists()), None)
        if keyring is None:
            raise Unavailable("the lab needs the keys of Debian: apt-get install debian-archive-keyring")
        mirror, security = await mirrors()
        base = self.suite.removesuffix("-backports")
        suites = [(mirror, base), (security, base + "-security")]
        if self.suite != base:
            suites.append((mirror, self.suite))
        self.directory.joinpath("sources.list").write_text(
            "".join(f"deb [arch=amd64 signed-by={keyring}] {uri} {suite} main\n" for uri, suite in suites)
        )
        # how the host reaches its mirror (proxies and the like) holds here too; its hooks do not
        host = await run("reading apt's configuration", ["apt-config", "dump"], timeout=_RESOLVE_TIMEOUT)
        acquire = [line for line in host.splitlines() if line.startswith("Acquire::")]
        self.directory.joinpath("apt.conf").write_text(
            "\n".join(
                [
                    *acquire,
                    f'Dir::State "{self.directory}";',
                    f'Dir::State::lists "{self.directory}/lists";',
                    f'Dir::State::status "{self.directory}/status";',
                    f'Dir::Cache "{self.directory}";',
                    f'Dir::Cache::archives "{self.archives}";',
                    f'Dir::Log "{self.directory}";',
                    f'Dir::Etc::sourcelist "{self.directory}/sources.list";',
                    f'Dir::Etc::sourceparts "{self.directory}/etc";',
                    f'Dir::Etc::parts "{self.directory}/etc";',
                    f'Dir::Etc::preferences "{self.directory}/none";',
                    f'Dir::Etc::preferencesparts "{self.directory}/etc";',
                    'APT::Architecture "amd64";',
                    'APT::Architectures "amd64";',
                    'APT::Install-Recommends "false";',
                    'APT::Sandbox::User "";',
                    'Acquire::Languages "none";',
                    'Acquire::Retries "3";',
                    "",
                ]
            )
        )

    async def _get(self, what: str, *arguments: str, timeout: float) -> str:
        command = [need("apt-get", "apt"), *arguments]
        return await run(f"{self.suite}: {what}", command, timeout=timeout, env=self._environment())

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "APT_CONFIG": str(self.directory / "apt.conf"), "LC_ALL": "C"}

    async def update(self) -> None:
        """Ask the mirror what there is now. Raises ``Unavailable``."""
        await self._configure()
        try:
            await self._get("asking the mirror", "update", "-qq", "--error-on=any", timeout=_UPDATE_TIMEOUT)
        except CommandError as error:
            raise Unavailable(f"the mirror does not give the suite {self.suite}", error.detail) from None

    async def resolve(self, *packages: str) -> list[Package]:
        """The packages, and all that they need, as nothing were installed. Raises ``CommandError``."""
        # what lies in the directory of archives would be left out
        for file in self.archives.glob("*.deb"):
            file.unlink()
        newest = ["-t", self.suite] if self.suite.endswith("-backports") else []
        text = await self._get(
            "looking for " + " ".join(packages), "install", "--print-uris", "-qq", "-y", *newest, *packages,
            timeout=_RESOLVE_TIMEOUT,
        )  # fmt: skip
        return parse_uris(text)

    async def download(self, *packages: Package) -> list[Path]:
        """The files of these packages, checked by apt. They are the caller's to delete. Raises ``Unavailable``."""
        wanted = [f"{package.name}={package.version}" for package in packages]
        # `download`, unlike `install --download-only`, takes the packages alone and writes into the current directory
        script = 'cd "$1" && shift && exec apt-get download -qq "$@"'
        try:
            await run(
                f"{self.suite}: downloading", ["sh", "-c", script, "sh", self.archives, *wanted],
                timeout=_DOWNLOAD_TIMEOUT, env=self._environment(),
            )  # fmt: skip
        except CommandError as error:
            raise Unavailable(str(error), error.detail) from None
        return [self.archives / package.file for package in packages]


async def unpack(debs: list[Path], root: Path) -> None:
    """Unpack packages into a root whose /bin, /sbin and /lib lead into /usr; no script of theirs is run."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for deb in debs:
        extract = f"dpkg-deb --fsys-tarfile {shlex.quote(str(deb))} | tar -x -C {shlex.quote(str(root))} " + (
            "--keep-directory-symlink --no-same-owner --exclude=./usr/share/doc --exclude=./usr/share/man "
            "--exclude=./usr/share/locale --exclude=./dev"
        )
        await run(f"unpacking {deb.name}", ["bash", "-o", "pipefail", "-c", extract], timeout=_UNPACK_TIMEOUT)
