"""Models on the Hugging Face Hub and on Kaggle: from a handle to a directory, and back."""

import contextlib
import errno
import hashlib
import pathlib
import tempfile

from keras_encnet.presets.card import model_card
from keras_encnet.presets.directory import FILES, WEIGHTS, save_preset

HUB = "hf://"
KAGGLE = "kaggle://"
LOG_IN = "log in with `hf auth login`, or put a token into the environment variable HF_TOKEN"
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def push_to_hub(
    model,
    repo,
    *,
    private=None,
    token=None,
    revision=None,
    commit_message=None,
    card=None,
    picture=None,
):
    """Publishes a model on the Hugging Face Hub: the preset's files and a model card, in one commit.

    The repository is made if there is none; other files in it stay. The files are complete on this
    machine before the Hub is asked for anything, and none is left here afterwards. `huggingface_hub`
    by default uploads weights through Xet; the tests of this package cover its plain HTTP upload
    (`HF_HUB_DISABLE_XET=1`) alone.

    Args:
        model: an `EncNet`, compiled or not; the optimizer is not published.
        repo: `"user/name"` or `"hf://user/name"`.
        private: whether a repository that is made here is private; default: as the account says.
        token: an access token that may write; default: the one of `hf auth login` or `HF_TOKEN`.
        revision: the branch to commit to, made if there is none; default: `"main"`.
        commit_message: one line about the commit.
        card: text of `README.md`; default: `model_card(model, repo, licence=None)`, since the
            licence is the owner's to name.
        picture: path of an image file that the card shows, published as `example.png` (or `.jpg`).

    Returns:
        The address of the commit, which ends in its hash: what `revision=` takes.

    Raises:
        ValueError: if `repo` is no name of a repository, or the Hub refuses the card.
        FileNotFoundError: if there is no such picture.
        PermissionError: without a token, or with one that may not write there.
        ConnectionError: if the Hub cannot be reached, or the upload breaks off: there is no new
            commit then.

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
            raise FileNotFoundError(f"`picture` is {picture}, which is no file. Give an image's path.")
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


def publish(content, repo, *, private=None, token=None, revision=None, commit_message=None):
    """Publishes files on the Hugging Face Hub in one commit.

    Args:
        content: maps each name in the repository to a path on this machine, or to `bytes`.
        repo, private, token, revision, commit_message: as in `push_to_hub`, which says what it raises.

    Returns:
        The address of the commit.
    """
    import huggingface_hub

    name = _repo_name(repo)
    _check_token(name, token)
    with _explained("publish", name, revision):
        api = huggingface_hub.HfApi(token=token, **_library())
        api.create_repo(name, private=private, exist_ok=True)
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


def download_from_hub(handle, revision=None, *, sha256=None):
    """Brings a model from the Hugging Face Hub into its cache, unless it is there.

    Only the files of a preset are asked for, whatever else the repository holds. A private
    repository takes the token of `hf auth login` or `HF_TOKEN`; the cache is where `HF_HOME` or
    `HF_HUB_CACHE` says. Without a connection, or with `HF_HUB_OFFLINE=1`, what is in the cache is
    used.

    Args:
        handle: `"hf://user/repo"`.
        revision: branch, tag or hash of a commit; default: `"main"`.
        sha256: hexadecimal SHA-256 of `model.weights.h5`, checked if given.

    Returns:
        `pathlib.Path` of a directory that holds the preset's files; it belongs to the cache and is
        for reading alone.

    Raises:
        ValueError: if there is no such repository or revision, if it holds no preset of
            keras-encnet, or if the weights are not those of `sha256` (then they leave the cache).
        PermissionError: if the token is wrong, or the repository gated.
        ConnectionError: if it is not in the cache and cannot be downloaded.
        OSError: if the cache cannot be written, or the disk is full.
    """
    import huggingface_hub

    name = _repo_name(handle)

    def fetch(**options):
        return huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(FILES), **_library(), **options
        )

    try:
        with _explained("download", name, revision):
            directory = fetch()
    except ConnectionError as error:
        # The client looks into its cache where it gets no connection, not where one breaks off.
        try:
            directory = _checked_preset(fetch(local_files_only=True), handle)
        except (ValueError, FileNotFoundError):
            raise error from error.__cause__
    directory = _checked_preset(directory, handle)
    if sha256 is not None:
        _check_sha256(directory / WEIGHTS, sha256, handle)
    return directory


def download_file(repo, file):
    """Brings one file of a repository of the Hugging Face Hub into its cache; returns its path."""
    import huggingface_hub

    with _explained("download", repo, None):
        return pathlib.Path(huggingface_hub.hf_hub_download(repo, file, **_library()))


def download_from_kaggle(handle):
    """Brings a model from Kaggle into the cache of `kagglehub`, unless it is there.

    Args:
        handle: `"kaggle://user/model/framework/variation"`, with a version behind it or without.

    Returns:
        `pathlib.Path` of a directory that holds the preset's files, for reading alone.

    Raises:
        ValueError: if the handle is no such handle, `kagglehub` is not installed, Kaggle does not
            give the model, or it holds no preset of keras-encnet.
    """
    name = str(handle).removeprefix(KAGGLE)
    parts = name.split("/")
    if len(parts) not in (4, 5) or not all(parts):
        raise ValueError(
            f"{handle!r} is no model on Kaggle: expected {KAGGLE}user/model/framework/variation, "
            f"for instance {KAGGLE}ada/streets/keras/resnet50, with /version behind it if need be."
        )
    try:
        import kagglehub
    except ImportError as error:
        raise ValueError(
            f"Downloading {handle} takes kagglehub, which is not installed: pip install kagglehub"
        ) from error
    try:
        directory = kagglehub.model_download(name)
    # Which errors there are differs between the versions of kagglehub.
    except Exception as error:
        raise ValueError(
            f"Kaggle does not give {handle} ({_told(error)}). Check the name and the connection; for "
            "a private model log in first, with `kagglehub.login()`."
        ) from error
    return _checked_preset(directory, handle)


def _check_token(name, token):
    import huggingface_hub
    from huggingface_hub import constants

    if token is None and huggingface_hub.get_token() is None:
        raise PermissionError(
            f"Publishing {name} takes an access token that may write, and there is none: {LOG_IN}. "
            f"Tokens are made at {constants.ENDPOINT}/settings/tokens."
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
            f"{handle!r} is no repository of the Hugging Face Hub: expected 'user/name' or "
            f"'{HUB}user/name', of letters, digits and single '-', '_' and '.'."
        )
    return name


def _library():
    from keras_encnet.version import __version__

    return {"library_name": "keras-encnet", "library_version": __version__}


def _checked_preset(directory, handle):
    directory = pathlib.Path(directory)
    missing = [file for file in FILES if not (directory / file).is_file()]
    if missing:
        raise ValueError(
            f"{handle} is no preset of keras-encnet: it has no {' and no '.join(missing)}. Expected "
            f"{', '.join(FILES)}, as `model.push_to_hub` and `model.save_to_preset` write them."
        )
    return directory


def _check_sha256(path, expected, handle):
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == expected.lower():
        return
    # The cache's file is a link to the content. Both go, or the next call would find them again.
    content = path.resolve()
    with contextlib.suppress(OSError):
        path.unlink()
        content.unlink(missing_ok=True)
    raise ValueError(
        f"{path.name} of {handle} has the SHA-256 {found}, expected {expected.lower()}: it is damaged, "
        "or not the file that was published. It has been taken out of the cache; try again, and if "
        "that gives the same, do not use it."
    )


@contextlib.contextmanager
def _explained(task, name, revision):
    """Turns what the client raises inside into errors that say what to do."""
    try:
        yield
    # The client's own errors, those of its HTTP library (which changed twice) and of Xet have no
    # base in common.
    except Exception as error:
        raise _explanation(error, task, name, revision) from error


def _explanation(error, task, name, revision):
    from huggingface_hub import constants, errors

    chain = list(_chain(error))

    def caused_by(*kinds):
        return any(isinstance(link, kinds) for link in chain)

    address = f"{constants.ENDPOINT}/{name}"
    status = next((s for link in chain if (s := _status(link)) is not None), None)
    cannot = f"Cannot {task} {name}"

    if caused_by(errors.OfflineModeIsEnabled):
        cached = "" if task == "publish" else f" and it is not in the cache {constants.HF_HUB_CACHE}"
        return ConnectionError(
            f"{cannot}: HF_HUB_OFFLINE is set{cached}. Unset HF_HUB_OFFLINE and try again."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OSError(
            error.errno,
            f"{cannot}: the disk of the cache {constants.HF_HUB_CACHE} is full. Make room, or let "
            "HF_HOME name a directory on another disk",
        )
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return OSError(
            error.errno,
            f"{cannot}: the cache {constants.HF_HUB_CACHE} cannot be written ({error}). Let HF_HOME "
            "name a directory that can be",
        )
    if caused_by(errors.GatedRepoError):
        return PermissionError(f"{cannot}: it is gated. Ask for access at {address}, then {LOG_IN}.")
    if caused_by(errors.RevisionNotFoundError):
        return ValueError(
            f"{name} has no revision {revision or constants.DEFAULT_REVISION!r}. Expected a branch, a "
            f"tag or the hash of a commit: see {address}/commits/main."
        )
    if status == 401 and any("Invalid credentials" in str(link) for link in chain):
        return PermissionError(
            f"{cannot}: the Hub does not know the access token (it was mistyped, or taken back). Make "
            f"one at {constants.ENDPOINT}/settings/tokens, then {LOG_IN}."
        )
    if caused_by(errors.RepositoryNotFoundError):
        return ValueError(
            f"{cannot}: there is no such repository at {constants.ENDPOINT}, or it is private and "
            f"not for you to see. Check the name; for a private one {LOG_IN}."
        )
    if status in (401, 403):
        return PermissionError(
            f"{cannot}: the Hub refuses ({_told(error)}). It takes a token with the right to "
            f"{'write to' if task == 'publish' else 'read'} {name}: {LOG_IN}."
        )
    if caused_by(errors.BadRequestError):
        return ValueError(f"{cannot}: the Hub does not accept it. {error}")
    left = (
        f"A commit is made whole or not at all: if {address}/commits/main has none, publish again."
        if task == "publish"
        else "Try again."
    )
    return ConnectionError(
        f"{cannot}: {constants.ENDPOINT} cannot be reached, or broke off ({_told(error)}). Check the "
        f"connection. {left}"
    )


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error):
    return getattr(getattr(error, "response", None), "status_code", None)


def _told(error):
    """What the server said, else the first line of what lies under the client's error."""
    chain = list(_chain(error))
    said = next((s for link in chain if (s := getattr(link, "server_message", None))), None)
    if said:
        return said
    cause = chain[min(1, len(chain) - 1)]
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
