"""The API functions on contexts and on the device's primary context."""

from __future__ import annotations

from typing import Any

from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.context import Context
from gpuvm.guest.cuda.core import CudaError, entry, fail
from gpuvm.guest.cuda.types import NAMES

CUcontext: Any = NAMES["CUcontext"]
CUlimit: Any = NAMES["CUlimit"]
MAX_STACK = 512 << 10
MAX_SERVICE = 1 << 32
"""Most bytes of printf's records, and of the heap."""
VALID_CONTEXT_FLAGS = 0xFF


class ContextApi(ApiBase):
    """Context management and primary contexts."""

    def _stack(self) -> list[Context]:
        stack = getattr(self._tls, "stack", None)
        if stack is None:
            stack = self._tls.stack = []
        return stack

    def _current(self) -> Context:
        """Return the calling thread's context, healthy.

        Raises
        ------
        CudaError
            INVALID_CONTEXT without one (CONTEXT_IS_DESTROYED if it was destroyed), or its sticky error.
        """
        stack = getattr(self._tls, "stack", None)
        if not stack:
            raise fail("INVALID_CONTEXT", "a context must be current to the calling thread")
        context: Context = stack[-1]
        if not context.alive:
            raise fail("CONTEXT_IS_DESTROYED")
        if context.error is not None:
            raise CudaError(context.error, context.detail)
        return context

    def _context(self, ctx: Any) -> Context:
        context = self._contexts.get(int(ctx or 0))
        if context is None:
            raise fail("INVALID_CONTEXT")
        return context

    def _device(self, dev: Any) -> None:
        if int(dev or 0) != 0:
            raise fail("INVALID_DEVICE")

    def _new_context(self, flags: int) -> Context:
        context = Context(self.driver.open_context(), flags)
        self._contexts[context.handle] = context
        return context

    def _destroy(self, context: Context, kill: bool = False) -> None:
        self._contexts.pop(context.handle, None)
        # The channel goes first: queued work may still use what the handles stand for.
        context.close(kill)
        self._forget_objects(context)

    def _create(self, flags: Any, dev: Any) -> Any:
        self._device(dev)
        if int(flags) & ~VALID_CONTEXT_FLAGS:
            raise fail("INVALID_VALUE")
        context = self._new_context(int(flags))
        self._stack().append(context)
        return CUcontext(context.handle)

    @entry
    def cuCtxCreate(self, flags: Any, dev: Any, device: Any = None) -> Any:
        # cuda-python 13 gave this name the three parameters of cuCtxCreate_v4; programs for either must run.
        return self._create(flags, dev) if device is None else self._create_with(flags, dev, device)

    @entry
    def cuCtxCreate_v3(self, paramsArray: Any, numParams: Any, flags: Any, dev: Any) -> Any:
        if int(numParams):
            raise fail("UNSUPPORTED_EXEC_AFFINITY")
        return self._create(flags, dev)

    @entry
    def cuCtxCreate_v4(self, ctxCreateParams: Any, flags: Any, dev: Any) -> Any:
        return self._create_with(ctxCreateParams, flags, dev)

    def _create_with(self, ctxCreateParams: Any, flags: Any, dev: Any) -> Any:
        if ctxCreateParams is not None and (
            ctxCreateParams.numExecAffinityParams
            or ctxCreateParams.execAffinityParams
            or ctxCreateParams.cigParams
        ):
            raise fail("UNSUPPORTED_EXEC_AFFINITY")
        return self._create(flags, dev)

    @entry
    def cuCtxDestroy(self, ctx: Any) -> None:
        context = self._context(ctx)
        if context is self._primary:
            raise fail("INVALID_CONTEXT", "a primary context is released, not destroyed")
        stack = self._stack()
        if stack and stack[-1] is context:
            stack.pop()
        self._destroy(context)

    @entry
    def cuCtxAttach(self, flags: Any) -> Any:
        if int(flags):
            raise fail("INVALID_VALUE")
        context = self._current()
        context.users += 1
        return CUcontext(context.handle)

    @entry
    def cuCtxDetach(self, ctx: Any) -> None:
        context = self._context(ctx)
        stack = self._stack()
        if not stack or stack[-1] is not context:
            raise fail("INVALID_CONTEXT")
        context.users -= 1
        if context.users == 0:
            stack.pop()
            self._destroy(context)

    @entry
    def cuCtxPushCurrent(self, ctx: Any) -> None:
        self._stack().append(self._context(ctx))

    @entry
    def cuCtxPopCurrent(self) -> Any:
        stack = self._stack()
        if not stack:
            raise fail("INVALID_CONTEXT")
        return CUcontext(stack.pop().handle)

    @entry
    def cuCtxSetCurrent(self, ctx: Any) -> None:
        stack = self._stack()
        if not int(ctx or 0):
            if stack:
                stack.pop()
            return
        context = self._context(ctx)
        if stack:
            stack[-1] = context
        else:
            stack.append(context)

    @entry
    def cuCtxGetCurrent(self) -> Any:
        stack = self._stack()
        return CUcontext(stack[-1].handle if stack else 0)

    @entry
    def cuCtxGetDevice(self) -> Any:
        self._current()
        return NAMES["CUdevice"](0)

    @entry
    def cuCtxGetId(self, ctx: Any) -> Any:
        return (self._context(ctx) if int(ctx or 0) else self._current()).handle

    @entry
    def cuCtxGetFlags(self) -> Any:
        return self._current().flags

    @entry
    def cuCtxSetFlags(self, flags: Any) -> None:
        if int(flags) & ~VALID_CONTEXT_FLAGS:
            raise fail("INVALID_VALUE")
        self._current().flags = int(flags)

    @entry
    def cuCtxGetApiVersion(self, ctx: Any) -> Any:
        if int(ctx or 0):
            self._context(ctx)
        else:
            self._current()
        return 3020

    @entry
    def cuCtxSynchronize(self) -> None:
        self._current().synchronize()

    @entry
    def cuCtxSetLimit(self, limit: Any, value: Any) -> None:
        context = self._current()
        limit, value = CUlimit(int(limit)), int(value)
        if limit not in context.limits:
            raise fail("UNSUPPORTED_LIMIT")
        if limit == CUlimit.CU_LIMIT_STACK_SIZE:
            if value > MAX_STACK:
                raise fail("INVALID_VALUE")
            value = -(-value // 16) * 16
        elif context.services is not None or value > MAX_SERVICE:
            # What printf and malloc work on has its size when the first module that uses them is loaded.
            raise fail("INVALID_VALUE")
        context.limits[limit] = value

    @entry
    def cuCtxGetLimit(self, limit: Any) -> Any:
        context = self._current()
        limit = CUlimit(int(limit))
        if limit not in context.limits:
            raise fail("UNSUPPORTED_LIMIT")
        return context.limits[limit]

    @entry
    def cuCtxGetCacheConfig(self) -> Any:
        return self._current().cache_config

    @entry
    def cuCtxSetCacheConfig(self, config: Any) -> None:
        self._current().cache_config = NAMES["CUfunc_cache"](int(config))

    @entry
    def cuCtxGetSharedMemConfig(self) -> Any:
        return self._current().shared_config

    @entry
    def cuCtxSetSharedMemConfig(self, config: Any) -> None:
        # Fermi's banks are four bytes wide: the request is a hint that has no effect, as on the chip.
        self._current()
        NAMES["CUsharedconfig"](int(config))

    @entry
    def cuCtxGetStreamPriorityRange(self) -> Any:
        self._current()
        return 0, 0

    @entry
    def cuCtxResetPersistingL2Cache(self) -> None:
        self._current()
        raise fail("NOT_SUPPORTED")

    @entry
    def cuDevicePrimaryCtxRetain(self, dev: Any) -> Any:
        self._device(dev)
        if self._primary is None:
            self._primary = self._new_context(self._primary_flags)
        else:
            self._primary.users += 1
        return CUcontext(self._primary.handle)

    @entry
    def cuDevicePrimaryCtxRelease(self, dev: Any) -> None:
        self._device(dev)
        primary = self._primary
        if primary is None:
            raise fail("INVALID_CONTEXT")
        primary.users -= 1
        if primary.users == 0:
            self._primary = None
            self._destroy(primary)

    @entry
    def cuDevicePrimaryCtxReset(self, dev: Any) -> None:
        self._device(dev)
        primary = self._primary
        if primary is not None:
            self._primary = None
            self._destroy(primary)

    @entry
    def cuDevicePrimaryCtxGetState(self, dev: Any) -> Any:
        self._device(dev)
        return self._primary_flags, int(self._primary is not None)

    @entry
    def cuDevicePrimaryCtxSetFlags(self, dev: Any, flags: Any) -> None:
        self._device(dev)
        if int(flags) & ~VALID_CONTEXT_FLAGS:
            raise fail("INVALID_VALUE")
        self._primary_flags = int(flags)
        if self._primary is not None:
            self._primary.flags = int(flags)
