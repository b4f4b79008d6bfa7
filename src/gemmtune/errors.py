"""Every exception gemmtune raises on purpose; a failed config is never one of them.

GemmtuneError
|- UsageError(ValueError)            what was asked makes no sense; the CLI exits with 2
|  |- ProblemError                   a Gemm that is not a GEMM
|  |- ConfigError                    a config that is not one of its family
|  `- OperandError(TypeError)        an array or buffer that does not fit the problem
|- DeviceError(RuntimeError)         no adapter, or not the one that was asked for
|  |- ProblemTooLargeError           the device cannot hold or address the problem
|  `- DeviceLostError                the driver has given the device up
|- ExecutorError(RuntimeError)       the workers cannot be kept running
|- DocumentError(ValueError)         an exported document that cannot be read, or not be made
|- UnlockError(RuntimeError)         wgpu-native's experimental features cannot be enabled here
|- LandscapeError(OSError)           a recorded landscape that cannot be read or written
|- MissingExtraError(ImportError)    a part of gemmtune whose packages are not installed
`- StoreError(OSError)               a database that cannot be used; it is left as it was
   |- StoreLockedError               another process holds it for longer than we wait
   |- StoreCorruptError              not a database, or a damaged one
   |- StoreVersionError              written by a newer gemmtune
   |- StoreReadOnlyError             no permission to write
   `- StoreFullError                 the disk is full
"""

from __future__ import annotations


class GemmtuneError(Exception):
    """Base of all of them. The message says what was asked, what was found and what to do next."""

    exit_code = 1
    """What the CLI exits with."""


class UsageError(GemmtuneError, ValueError):
    """The question itself is wrong."""

    exit_code = 2


class ProblemError(UsageError):
    """The values do not describe a GEMM."""


class ConfigError(UsageError):
    """The values are not a config of the family they are given for."""


class DeviceError(GemmtuneError, RuntimeError):
    """There is no adapter that can be used."""


class ProblemTooLargeError(DeviceError):
    """The problem does not fit the device's limits."""


class DeviceLostError(DeviceError):
    """The device is of no use any more; request another one and make its buffers anew."""


class OperandError(UsageError, TypeError):
    """An array or buffer is not what the problem needs: its shape, dtype, size or device."""


class ExecutorError(GemmtuneError, RuntimeError):
    """Workers cannot be started, or keep dying before they do anything."""


class DocumentError(GemmtuneError, ValueError):
    """A document is not one of gemmtune's, of a newer format, or has nothing to hold."""


class UnlockError(GemmtuneError, RuntimeError):
    """wgpu-native's library cannot be made to grant cooperative-matrix. It was not touched."""


class MissingExtraError(GemmtuneError, ImportError):
    """A package that an optional part of gemmtune needs is missing."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """``package`` could not be imported; ``extra`` of gemmtune brings it."""
        return cls(f"this needs the package {package}: pip install 'gemmtune[{extra}]'")


class LandscapeError(GemmtuneError, OSError):
    """A recorded landscape, or another tuner's file, cannot be read or written."""


class StoreError(GemmtuneError, OSError):
    """The database cannot be used. Nothing in it was changed."""


class StoreLockedError(StoreError):
    """Another process holds the database."""


class StoreCorruptError(StoreError):
    """The file is not a database of gemmtune's, or it is damaged."""


class StoreVersionError(StoreError):
    """The database was written by a newer gemmtune."""


class StoreReadOnlyError(StoreError):
    """The database, or the folder it is in, cannot be written."""


class StoreFullError(StoreError):
    """There is no space left where the database is."""
