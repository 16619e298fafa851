/* A driver library without a driver: what the tests need of libnvidia-ml.so.1, every answer from the environment, read at every call.
 *
 *   STUB_UUID       UUID of the GPU, with its prefix; STUB_INSTANCES  how many instances it is split into (their UUIDs are MIG-0, MIG-1 ...)
 *   STUB_USED       bytes in use; STUB_USED_STEP is added at every call
 *   STUB_PROCESSES  pid:bytes,pid:bytes
 *   STUB_ENERGY     millijoules; STUB_ENERGY_STEP is added at every call
 *   STUB_REASONS    clock event reasons, a mask
 *   STUB_FAIL       function=code,function=code: what returns an error
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
enum { OK = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { WHOLE = 1, INSTANCE = 100 }; /* handles: the GPU, and the first of its instances */

static u64 number(const char *name, u64 otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static int fails(const char *function) {
    const char *text = getenv("STUB_FAIL");
    for (text = text ? strstr(text, function) : NULL; text; text = strstr(text + 1, function))
        if (text[strlen(function)] == '=') return atoi(text + strlen(function) + 1);
    return OK;
}

#define FAIL_AS_ASKED() do { int code = fails(__func__); if (code) return code; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; FAIL_AS_ASKED(); return OK; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stub"; }

int nvmlDeviceGetHandleByUUID(const char *uuid, size_t *handle) {
    FAIL_AS_ASKED();
    const char *own = getenv("STUB_UUID");
    if (own && !strcmp(uuid, own)) return *handle = WHOLE, OK;
    if (!strncmp(uuid, "MIG-", 4) && strlen(uuid) == 5 && (u64)atoi(uuid + 4) < number("STUB_INSTANCES", 0))
        return *handle = INSTANCE + atoi(uuid + 4), OK;
    return NOT_FOUND;
}
int nvmlDeviceGetMigMode(size_t handle, unsigned *current, unsigned *pending) {
    (void)handle; FAIL_AS_ASKED();
    return *current = *pending = number("STUB_INSTANCES", 0) > 0, OK;
}
int nvmlDeviceGetMaxMigDeviceCount(size_t handle, unsigned *count) { (void)handle; return *count = 7, OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(size_t handle, unsigned index, size_t *instance) {
    (void)handle;
    return index < number("STUB_INSTANCES", 0) ? (*instance = INSTANCE + index, OK) : NOT_FOUND;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(size_t instance, size_t *handle) { (void)instance; return *handle = WHOLE, OK; }
int nvmlDeviceGetUUID(size_t handle, char *uuid, unsigned size) { snprintf(uuid, size, "MIG-%zu", handle - INSTANCE); return OK; }

typedef struct { unsigned version; u64 total, reserved, free, used; } Memory;
int nvmlDeviceGetMemoryInfo_v2(size_t handle, Memory *memory) {
    static u64 calls;
    FAIL_AS_ASKED();
    memory->total = 80ull << 30, memory->reserved = 1ull << 30;
    memory->used = number("STUB_USED", 0) + number("STUB_USED_STEP", 0) * calls++ + (handle >= INSTANCE ? handle : 0);
    return OK;
}

typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } Process;
int nvmlDeviceGetComputeRunningProcesses_v3(size_t handle, unsigned *count, Process *found) {
    (void)handle; FAIL_AS_ASKED();
    unsigned room = found ? *count : 0, n = 0;
    for (const char *text = getenv("STUB_PROCESSES"); text && *text; n++) {
        char *end;
        Process process = {(unsigned)strtoul(text, &end, 10), 0, ~0u, ~0u};
        process.used = strtoull(end + 1, &end, 10);
        if (n < room) found[n] = process;
        text = *end == ',' ? end + 1 : end;
    }
    *count = n;
    return n > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetTotalEnergyConsumption(size_t handle, u64 *millijoules) {
    static u64 calls;
    (void)handle; FAIL_AS_ASKED();
    return *millijoules = number("STUB_ENERGY", 0) + number("STUB_ENERGY_STEP", 0) * calls++, OK;
}
int nvmlDeviceGetCurrentClocksEventReasons(size_t handle, u64 *reasons) {
    (void)handle; FAIL_AS_ASKED();
    return *reasons = number("STUB_REASONS", 0), OK;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(size_t handle, u64 *reasons) { (void)handle; return *reasons = number("STUB_REASONS", 0), OK; }
