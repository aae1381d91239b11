"""A model from a Hugging Face hub: hf:OWNER/REPO[/FILE.gguf][@REVISION].

The huggingface_hub library knows where a repository's files are, who is logged in and which server HF_ENDPOINT names; the
bytes are fetched by transfer.py, because the library's own downloads begin anew after an interruption. Only files
that llmos uses are fetched, every one at the commit that was looked up first, checked against the hash the hub gives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmos.kernel.errno import IntegrityError, InvalidArgument, NotFound, NotPermitted, NotSupported, TimedOut

from .index import Index, client_for
from .local import read_shards
from .manifest import name_from
from .source import SMALL_FILES, Workplace, weight_files
from .transfer import Download, fetch

if TYPE_CHECKING:
    import httpx

_REFERENCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[\w./ -]+\.gguf))?(?:@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubSource:
    repo: str
    file: str | None
    revision: str | None

    @property
    def name(self) -> str:
        return name_from(self.repo.rsplit("/", 1)[1])

    @property
    def tag(self) -> str:
        file = (self.file or "").rsplit("/", 1)[-1].removesuffix(".gguf")
        return name_from("-".join(part for part in (file, self.revision or "main") if part))

    @property
    def origin(self) -> str:
        return f"hf:{self.repo}{f'/{self.file}' if self.file else ''}{f'@{self.revision}' if self.revision else ''}"

    def bring(self, workplace: Workplace) -> tuple[dict[str, str], str]:
        workplace.progress(f"looking for {self.origin}", 0, None)
        info = self._ask(workplace)
        files = {entry.rfilename: entry for entry in info.siblings or ()}
        hashes: dict[str, str] = {}
        with client_for(Index(())) as client:
            for name in self._choose(list(files)):
                self._fetch(client, files[name], info.sha, hashes, workplace)
            if not any(name.endswith(".gguf") for name in hashes):
                workplace.inspect(workplace.files, weights=False)
                index = "model.safetensors.index.json"
                shards = read_shards(workplace.files / index) if index in hashes else None
                for name in weight_files(list(files), self.repo, shards):
                    if name not in files:
                        raise NotFound(f"{self.repo} lacks {name}, which its own index names; pull another revision")
                    self._fetch(client, files[name], info.sha, hashes, workplace)
        card = info.card_data.to_dict() if info.card_data else {}
        return hashes, str(card.get("license") or "")

    def _ask(self, workplace: Workplace) -> Any:
        """What the hub knows of the repository: its commit and files, with sizes and hashes."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

        try:
            api = HfApi(endpoint=workplace.environ.get("HF_ENDPOINT"), library_name="llmos")
            return api.model_info(self.repo, revision=self.revision, files_metadata=True, timeout=30.0)
        except GatedRepoError:
            raise NotPermitted(f"{self.repo} asks you to accept its licence first: do so on its page, then `hf auth login`") from None
        except RevisionNotFoundError:
            raise NotFound(f"{self.repo} has no revision {self.revision}; see its page for those it has") from None
        except RepositoryNotFoundError:
            raise NotFound(f"the hub has no model {self.repo}, or it is private: check the name, or `hf auth login`") from None
        except HFValidationError as error:
            raise InvalidArgument(f"{self.repo} is not a repository's name: {error}") from None
        except Exception as error:  # noqa: BLE001  # the library changes its HTTP client, and so its errors, between versions
            code = getattr(getattr(error, "response", None), "status_code", 0)
            if code in (401, 403, 404):
                raise NotFound(f"the hub does not give out {self.repo} (it answers {code}): check the name, or `hf auth login`") from None
            why = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise TimedOut(f"the hub could not be asked for {self.repo} ({why}); check the network and pull again") from None

    def _choose(self, names: list[str]) -> list[str]:
        """The files to fetch first: one GGUF file, or everything of a model directory but its weights."""
        weights = [name for name in names if name.endswith(".gguf")]
        if self.file:
            if self.file not in names:
                raise NotFound(f"{self.repo} has no {self.file}; it has {', '.join(weights[:8]) or 'no GGUF files'}")
            return [self.file]
        if "config.json" in names and any(name.endswith(".safetensors") for name in names):
            small = [name for name in SMALL_FILES if name in names]
            sharded = "model.safetensors.index.json" in names and "model.safetensors" not in names
            return [*small, "model.safetensors.index.json"] if sharded else small
        if len(weights) == 1:
            return weights
        if weights:
            raise InvalidArgument(f"{self.repo} has several GGUF files: say which, as in hf:{self.repo}/{weights[0]}")
        weight_files(names, self.repo)
        raise NotSupported(f"{self.repo} has no config.json; pull a model that has, or a GGUF file")

    def _fetch(self, client: httpx.Client, entry: Any, commit: str, hashes: dict[str, str], workplace: Workplace) -> None:
        """One file, to workplace.files, by way of a part named after its content."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not in __all__

        endpoint = workplace.environ.get("HF_ENDPOINT")
        name = entry.rfilename.rsplit("/", 1)[-1]
        url = hf_hub_url(self.repo, entry.rfilename, revision=commit, endpoint=endpoint)
        promised = _checksum(entry.lfs.sha256, 64, name) if entry.lfs else None
        blob = _checksum(entry.blob_id, 40, name) if entry.blob_id else None
        part = workplace.parts / f"{promised or blob or name}.part"
        headers = tuple(build_hf_headers(library_name="llmos").items())
        download = Download(url, name, entry.size, promised, None if promised else blob, headers)
        hashes[name] = fetch(client, download, part, workplace.progress, workplace.pause)
        part.replace(workplace.files / name)


def _checksum(text: object, digits: int, name: str) -> str:
    """What the hub gives as a checksum, which also names a file of ours. Raises IntegrityError if it is none."""
    if not isinstance(text, str) or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", text):
        raise IntegrityError(f"the hub gives {str(text)[:80]!r} as the checksum of {name}, which is none; pull from another source")
    return text


def hub_source(reference: str) -> HubSource:
    """Parse hf:OWNER/REPO[/FILE.gguf][@REVISION]. Raises InvalidArgument."""
    found = _REFERENCE.fullmatch(reference)
    if not found or ".." in reference:
        raise InvalidArgument(f"{reference[:80]!r} is not hf:OWNER/REPO, hf:OWNER/REPO@REVISION or hf:OWNER/REPO/FILE.gguf")
    return HubSource(found["repo"], found["file"], found["revision"])
