/* A libnvidia-ml.so of eight GPUs for the tests. GONE, LOST and BROKEN in the environment name GPUs by their number: one
   that is gone is not counted any more, so that the later ones move up, as after a driver's restart; one that is lost has
   fallen off the bus under a running driver, which counts it and says no more of it; one that is broken does not say its
   temperature. EVENTS names a file of lines "<number> <XID>", each an event as soon as it is written, for whoever has
   registered for those of that GPU. Names and numbers are those of nvml.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT 8
#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define TIMEOUT 10
#define GPU_IS_LOST 15
#define XID_CRITICAL_ERROR 8ULL
#define UNKNOWN 999
#define MEGABYTE (1024ULL * 1024ULL)

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_t;

static int named(const char *variable, int number) {
    const char *value = getenv(variable);
    return value != NULL && *value != 0 && atoi(value) == number;
}

static int number_of(void *device) { return (int)(long)device - 1; }

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == UNKNOWN ? "Unknown Error" : "An error"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = COUNT;
    for (int i = 0; i < COUNT; i++) *count -= named("GONE", i);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    for (int i = 0; i < COUNT; i++) {
        if (named("GONE", i)) continue;
        if (index-- == 0) { *device = (void *)(long)(i + 1); return SUCCESS; }
    }
    return INVALID_ARGUMENT;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
    if (named("LOST", number_of(device))) return GPU_IS_LOST;
    snprintf(uuid, length, "GPU-fake-%d", number_of(device));
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
    if (named("LOST", number_of(device))) return GPU_IS_LOST;
    snprintf(name, length, "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    if (named("LOST", number_of(device))) return GPU_IS_LOST;
    memory->total = 81920 * MEGABYTE;
    memory->used = (1024 + number_of(device)) * MEGABYTE;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(void *device, pci_t *pci) {
    if (named("LOST", number_of(device))) return GPU_IS_LOST;
    memset(pci, 0, sizeof *pci);
    snprintf(pci->busId, sizeof pci->busId, "00000000:1%d:00.0", number_of(device));
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    if (named("LOST", number_of(device))) return GPU_IS_LOST;
    rates->gpu = 10 + number_of(device);
    rates->memory = 5;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *celsius) {
    (void)sensor;
    if (named("LOST", number_of(device))) return GPU_IS_LOST;
    if (named("BROKEN", number_of(device))) return UNKNOWN;
    *celsius = 40 + number_of(device);
    return SUCCESS;
}

typedef struct { unsigned int version; int sensor; int celsius; } temperature_t;
int nvmlDeviceGetTemperatureV(void *device, temperature_t *temperature) {
    unsigned int celsius = 0;
    int code = nvmlDeviceGetTemperature(device, temperature->sensor, &celsius);
    temperature->celsius = (int)celsius;
    return code;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
    if (named("LOST", number_of(device))) return GPU_IS_LOST;
    *milliwatts = 300500 + 1000 * number_of(device);
    return SUCCESS;
}

typedef struct {
    void *device;
    unsigned long long eventType, eventData;
    unsigned int gpuInstanceId, computeInstanceId;
} event_t;
static unsigned long long registered[COUNT];
static long read_so_far;

int nvmlEventSetCreate(void **set) { *set = (void *)1; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    (void)set;
    if (named("LOST", number_of(device))) return GPU_IS_LOST;
    registered[number_of(device)] |= types;
    return SUCCESS;
}

int nvmlEventSetWait_v2(void *set, event_t *event, unsigned int milliseconds) {
    int number, xid, found = 0;
    const char *path = getenv("EVENTS");
    FILE *file = path != NULL && *path != 0 ? fopen(path, "r") : NULL;
    (void)set, (void)milliseconds;
    if (file == NULL) return TIMEOUT;
    fseek(file, read_so_far, SEEK_SET);
    while (!found && fscanf(file, "%d %d\n", &number, &xid) == 2)
        found = number >= 0 && number < COUNT && (registered[number] & XID_CRITICAL_ERROR) != 0;
    read_so_far = ftell(file);
    fclose(file);
    if (!found) return TIMEOUT;
    memset(event, 0, sizeof *event);
    event->device = (void *)(long)(number + 1);
    event->eventType = XID_CRITICAL_ERROR;
    event->eventData = (unsigned long long)xid;
    return SUCCESS;
}
