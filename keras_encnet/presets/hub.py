"""Models on the Hugging Face Hub and on Kaggle: from a handle to a directory, and back."""

import contextlib
import errno
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Mapping

import keras

from keras_encnet.presets.card import model_card
from keras_encnet.presets.directory import FILES, WEIGHTS, save_preset
from keras_encnet.presets.download import LARGEST
from keras_encnet.version import __version__

HUB = "hf://"
KAGGLE = "kaggle://"
LOG_IN = "log in with `hf auth login`, or set the environment variable HF_TOKEN to a token"


def push_to_hub(
    model: keras.Model,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    card: str | None = None,
    picture: str | os.PathLike | None = None,
) -> str:
    """Publishes a model on the Hugging Face Hub: the preset's files and a model card, in one commit.

    The repository is created if needed; other files in it stay. All files are written to a temporary
    directory before the Hub is contacted, and deleted afterwards. By default `huggingface_hub` uploads
    weights through Xet; the tests of this package cover only its plain HTTP upload
    (`HF_HUB_DISABLE_XET=1`).

    Args:
        model: an `EncNet`, compiled or not; the optimizer is not published.
        repo: `"user/name"` or `"hf://user/name"`.
        private: whether the repository is private; default: the account's setting for a new one. Of
            one that exists it must be what it is.
        token: an access token with write permission; default: that of `hf auth login` or `HF_TOKEN`.
        revision: the branch to commit to, created if needed; default: `"main"`.
        commit_message: one line about the commit.
        card: text of `README.md`; default: `model_card(model, repo, licence=None)`, because only the
            owner can choose the licence.
        picture: path of an image file for the card, published as `example.png` (or `.jpg`).

    Returns:
        The address of the commit. It ends with the commit's hash, which `revision=` accepts.

    Raises:
        ValueError: if `repo` is not a repository name, `private` differs from what it is, or the Hub
            rejects the card.
        FileNotFoundError: if `picture` does not exist.
        PermissionError: without a token, or if the token lacks write permission.
        ConnectionError: if the Hub cannot be reached or the upload breaks off; nothing is committed.

    ```python
    model.push_to_hub("ada/streets", private=True)
    EncNet.from_preset("hf://ada/streets")
    ```
    """
    name = _repo_name(repo)
    _check_token(name, token)
    shown = None
    if picture is not None:
        picture = pathlib.Path(picture)
        if not picture.is_file():
            raise FileNotFoundError(f"`picture` must be an image file that exists. Received: {picture}")
        shown = f"example{picture.suffix.lower()}"
    if card is None:
        card = model_card(model, name, picture=shown, licence=None)

    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        directory = pathlib.Path(scratch, "preset")
        save_preset(model, directory)
        content = {"README.md": card.encode(), **{file: directory / file for file in FILES}}
        if picture is not None:
            content[shown] = picture
        return publish(
            content,
            name,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
        )


def publish(
    content: Mapping[str, str | os.PathLike | bytes],
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Publishes files on the Hugging Face Hub in one commit.

    Args:
        content: maps each file name in the repository to a local path, or to `bytes`.
        repo, private, token, revision, commit_message: as in `push_to_hub`, with the same errors.

    Returns:
        The address of the commit.
    """
    import huggingface_hub

    name = _repo_name(repo)
    _check_token(name, token)
    with _explained("publish", name, revision):
        api = huggingface_hub.HfApi(token=token, **_library())
        api.create_repo(name, private=private, exist_ok=True)
        found = private if private is None else bool(api.repo_info(name).private)
    # Nothing may become public by mistake.
    if found != private:
        raise ValueError(
            f"`private` must be {found} or None for {name}, which exists and is "
            f"{'private' if found else 'public'}. Received: {private}. Change that in its settings, or "
            "choose another name."
        )
    with _explained("publish", name, revision):
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        # Not `upload_folder`, which may split an upload into several commits.
        commit = api.create_commit(
            name,
            operations=[
                huggingface_hub.CommitOperationAdd(path_in_repo=path, path_or_fileobj=source)
                for path, source in content.items()
            ],
            commit_message=commit_message or "EncNet, by keras-encnet",
            revision=revision,
        )
    return str(commit.commit_url)


def download_from_hub(
    handle: str, revision: str | None = None, *, sha256: str | None = None
) -> pathlib.Path:
    """Downloads a model from the Hugging Face Hub into the Hub's cache, unless it is there.

    Only the preset's files are downloaded; other files in the repository are ignored. A private
    repository needs the token of `hf auth login` or `HF_TOKEN`. `HF_HOME` or `HF_HUB_CACHE` set the
    cache's directory. `huggingface_hub` compares the length of each file with the Hub's, and gives up a
    connection that is silent for `HF_HUB_DOWNLOAD_TIMEOUT` seconds (10); it does not bound the total
    time. Files of more than 4 GB are refused before their download. Without a connection, or with
    `HF_HUB_OFFLINE=1`, the cached files are used.

    Args:
        handle: `"hf://user/repo"`.
        revision: branch, tag or commit hash; default: `"main"`.
        sha256: hexadecimal SHA-256 of `model.weights.h5`, checked if given.

    Returns:
        A directory with the preset's files. It is part of the cache: do not write to it.

    Raises:
        ValueError: if there is no such repository or revision, if it holds no preset of
            keras-encnet, if a file is too large, or if the weights do not match `sha256` (they are then
            removed from the cache).
        PermissionError: if the token is wrong, or the repository gated.
        ConnectionError: if the model is not in the cache and cannot be downloaded.
        OSError: if the cache cannot be written, or the disk is full.
    """
    import huggingface_hub

    name = _repo_name(handle)

    def fetch(**options):
        return huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(FILES), **_library(), **options
        )

    try:
        _check_sizes(name, FILES, revision, LARGEST)
        with _explained("download", name, revision):
            directory = fetch()
    except ConnectionError as error:
        # The client falls back to its cache if it cannot connect, but not if the connection breaks.
        try:
            directory = _checked_preset(fetch(local_files_only=True), handle)
        except (ValueError, FileNotFoundError):
            raise error from error.__cause__
    directory = _checked_preset(directory, handle)
    if sha256 is not None:
        check_sha256(directory / WEIGHTS, sha256, handle)
    return directory


def download_file(
    repo: str, file: str, revision: str | None = None, *, largest: int = LARGEST
) -> pathlib.Path:
    """Downloads one file of a Hugging Face Hub repository into the Hub's cache; returns its path.

    Args:
        repo: `"user/repo"`.
        file: the file's path in the repository.
        revision: branch, tag or commit hash; default: `"main"`.
        largest: the most bytes that are accepted.

    Raises:
        Exception: as from `download_from_hub`.
    """
    import huggingface_hub

    def fetch(**options):
        found = huggingface_hub.hf_hub_download(repo, file, revision=revision, **_library(), **options)
        return pathlib.Path(found)

    try:
        _check_sizes(repo, [file], revision, largest)
        with _explained("download", repo, revision):
            return fetch()
    except ConnectionError as error:
        try:
            return fetch(local_files_only=True)
        except (ValueError, FileNotFoundError):
            raise error from error.__cause__


def download_from_kaggle(handle: str) -> pathlib.Path:
    """Downloads a model from Kaggle into the cache of `kagglehub`, unless it is there.

    `kagglehub` compares checksums with Kaggle's and gives up a silent connection; it bounds neither
    size nor total time.

    Args:
        handle: `"kaggle://user/model/framework/variation"`, optionally followed by `/version`.

    Returns:
        A directory with the preset's files. It is part of the cache: do not write to it.

    Raises:
        ValueError: if the handle is malformed, `kagglehub` is not installed, the model cannot be
            downloaded, or it is not a preset of keras-encnet.
    """
    name = str(handle).removeprefix(KAGGLE)
    parts = name.split("/")
    if len(parts) not in (4, 5) or not all(parts):
        raise ValueError(
            f"A model on Kaggle must be given as {KAGGLE}user/model/framework/variation, optionally "
            f"followed by /version, for instance {KAGGLE}ada/streets/keras/resnet50. "
            f"Received: {handle!r}"
        )
    try:
        import kagglehub
    except ImportError as error:
        raise ValueError(
            f"Downloading {handle} needs kagglehub, which is not installed: pip install kagglehub"
        ) from error
    try:
        directory = kagglehub.model_download(name)
    # The error classes differ between versions of kagglehub.
    except Exception as error:
        raise ValueError(
            f"Cannot download {handle} ({_reason(error)}). Check the name and the connection. For a "
            "private model, log in first with `kagglehub.login()`."
        ) from error
    return _checked_preset(directory, handle)


def _check_token(name, token):
    import huggingface_hub
    from huggingface_hub import constants

    if token == "":
        raise ValueError("`token` must be an access token or None. Received: ''")
    if token is None and huggingface_hub.get_token() is None:
        raise PermissionError(
            f"Publishing {name} needs an access token with write permission, and none was found: "
            f"{LOG_IN}. Create one at {constants.ENDPOINT}/settings/tokens."
        )


def _repo_name(handle):
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = str(handle).removeprefix(HUB)
    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise ValueError(
            f"A repository on the Hugging Face Hub must be given as 'user/name' or '{HUB}user/name', "
            f"with letters, digits and single '-', '_' and '.'. Received: {handle!r}"
        )
    return name


def _library():
    """Options that identify this package to the Hub."""
    return {"library_name": "keras-encnet", "library_version": __version__}


def _checked_preset(directory, handle):
    directory = pathlib.Path(directory)
    missing = [file for file in FILES if not (directory / file).is_file()]
    if missing:
        raise ValueError(
            f"{handle} is not a preset of keras-encnet: it has no {' and no '.join(missing)}. A preset "
            f"holds {', '.join(FILES)}, as `model.push_to_hub` and `model.save_to_preset` write them."
        )
    return directory


def _check_sizes(name, files, revision, largest):
    """Checks the sizes that the Hub gives for files, before their download."""
    import huggingface_hub

    with _explained("download", name, revision):
        api = huggingface_hub.HfApi(**_library())
        found = api.model_info(name, revision=revision, files_metadata=True).siblings
    for file in found:
        if file.rfilename in files and (file.size or 0) > largest:
            raise ValueError(
                f"{file.rfilename} of {HUB}{name} must have at most {largest} bytes. Received: "
                f"{file.size}. Nothing was downloaded."
            )


def check_sha256(path: pathlib.Path, expected: str, handle: str) -> None:
    """Compares a file in the Hub's cache with its SHA-256.

    Args:
        path: the file.
        expected: the SHA-256, in hexadecimal digits.
        handle: where it is from, for the message.

    Raises:
        ValueError: if it is another file, which is then removed from the cache.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == expected.lower():
        return
    remove_from_cache(path)
    raise ValueError(
        f"{path.name} of {handle} must have the SHA-256 {expected.lower()}. Received: {found}. It is "
        "damaged, or not the published file. It was removed from the cache: try again, and do not use "
        "it if that fails in the same way."
    )


def remove_from_cache(path: pathlib.Path) -> None:
    """Removes a file from the Hub's cache, if the cache can be written."""
    # It is a link to the content. Remove both, or the next call would find them again.
    content = path.resolve()
    with contextlib.suppress(OSError):
        path.unlink()
        content.unlink(missing_ok=True)


# === Errors ===


@contextlib.contextmanager
def _explained(task, name, revision):
    """Turns the client's errors into errors that say what to do."""
    try:
        yield
    # The errors of the client, of its HTTP library (which changed twice) and of Xet share no base.
    except Exception as error:
        raise _explanation(error, task, name, revision) from error


# Each row: symptoms, the error to raise, and its message after "Cannot download user/repo: ". A symptom
# is an error class, an HTTP status or an errno. The first row with a symptom of the failure applies.
EXPLANATIONS = (
    ("OfflineModeIsEnabled", ConnectionError, "HF_HUB_OFFLINE is set{uncached}. Unset it and retry."),
    (
        "ENOSPC EDQUOT",
        OSError,
        "the disk of the cache {cache} is full. Free some space, or move the cache with HF_HOME.",
    ),
    (
        "EACCES EPERM EROFS ENOTDIR EEXIST",
        OSError,
        "the cache {cache} cannot be written ({error}). Set HF_HOME to a writable directory.",
    ),
    ("GatedRepoError", PermissionError, "it is gated. Ask for access at {address}, then {log_in}."),
    (
        "RevisionNotFoundError",
        ValueError,
        "it has no revision {revision!r}. `revision` must be a branch, a tag or a commit hash: see "
        "{address}/commits/main.",
    ),
    (
        "InvalidCredentials",
        PermissionError,
        "the Hub does not know the access token (mistyped or revoked). Create one at "
        "{endpoint}/settings/tokens, then {log_in}.",
    ),
    (
        "RepositoryNotFoundError",
        ValueError,
        "there is no such repository at {endpoint}, or it is private and you have no access. Check the "
        "name. If it is private, {log_in}.",
    ),
    (
        "401 403",
        PermissionError,
        "the Hub refuses ({reason}). A token with the right to {access} {name} is needed: {log_in}.",
    ),
    ("BadRequestError", ValueError, "the Hub rejects it. {error}"),
    (
        "Exception",
        ConnectionError,
        "{endpoint} cannot be reached, or the connection broke off ({reason}). Check the connection. "
        "{retry}",
    ),
)


def _explanation(error, task, name, revision):
    from huggingface_hub import constants

    symptoms = _symptoms(error)
    kind, message = next(row[1:] for row in EXPLANATIONS if symptoms & set(row[0].split()))
    publishing, address = task == "publish", f"{constants.ENDPOINT}/{name}"
    published = f"If {address}/commits/main has no new commit, nothing was published: publish again."
    message = f"Cannot {task} {name}: " + message.format(
        name=name,
        revision=revision or constants.DEFAULT_REVISION,
        address=address,
        endpoint=constants.ENDPOINT,
        cache=constants.HF_HUB_CACHE,
        uncached="" if publishing else f" and it is not in the cache {constants.HF_HUB_CACHE}",
        access="write to" if publishing else "read",
        retry=published if publishing else "Try again.",
        log_in=LOG_IN,
        error=error,
        reason=_reason(error),
    )
    return OSError(error.errno, message) if kind is OSError else kind(message)


def _symptoms(error):
    symptoms = {errno.errorcode.get(getattr(error, "errno", None))}
    for link in _chain(error):
        status = getattr(getattr(link, "response", None), "status_code", None)
        symptoms |= {str(status), *(kind.__name__ for kind in type(link).__mro__)}
        if status == 401 and "Invalid credentials" in str(link):
            symptoms.add("InvalidCredentials")
    return symptoms


def _chain(error):
    """An error, the error that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error):
    """The server's message, or else the first line of the error under the client's."""
    chain = list(_chain(error))
    message = next((text for link in chain if (text := getattr(link, "server_message", None))), None)
    if message:
        return message
    cause = chain[min(1, len(chain) - 1)]
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
