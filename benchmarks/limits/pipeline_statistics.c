// A Vulkan layer that writes what a driver says of every compute pipeline, e.g. its registers
// (VK_KHR_pipeline_executable_properties), to the file that PIPELINE_STATISTICS names, one line each.
// registers.py builds and loads it. Where the driver lacks the extension it changes nothing.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

#define EXTENSION "VK_KHR_pipeline_executable_properties"
#define MOST 64

static PFN_vkGetInstanceProcAddr next_instance;
static PFN_vkGetDeviceProcAddr next_device;
static VkInstance instance;
static PFN_vkCreateComputePipelines create_pipelines;
static PFN_vkGetPipelineExecutablePropertiesKHR executables_of;
static PFN_vkGetPipelineExecutableStatisticsKHR statistics_of;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static void write_statistics(VkDevice device, VkPipeline pipeline) {
  VkPipelineInfoKHR info = {VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, NULL, pipeline};
  uint32_t count = 0;
  const char *path = getenv("PIPELINE_STATISTICS");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  executables_of(device, &info, &count, NULL);
  for (uint32_t i = 0; i < count; i++) {
    VkPipelineExecutableInfoKHR one = {VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, NULL, pipeline, i};
    VkPipelineExecutableStatisticKHR said[MOST] = {0};
    uint32_t known = MOST;
    for (int k = 0; k < MOST; k++) said[k].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
    statistics_of(device, &one, &known, said);
    for (uint32_t k = 0; k < known; k++)
      fprintf(file, "%s=%llu;", said[k].name, (unsigned long long)said[k].value.u64);
    fprintf(file, "\n");
  }
  fclose(file);
}

static VkResult VKAPI_CALL create_and_ask(VkDevice device, VkPipelineCache cache, uint32_t count,
                                          const VkComputePipelineCreateInfo *wanted,
                                          const VkAllocationCallbacks *allocation, VkPipeline *made) {
  VkComputePipelineCreateInfo *asking = malloc(count * sizeof *asking);
  memcpy(asking, wanted, count * sizeof *asking);
  for (uint32_t i = 0; statistics_of && i < count; i++)
    asking[i].flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR;
  VkResult result = create_pipelines(device, cache, count, asking, allocation, made);
  free(asking);
  if (result == VK_SUCCESS && statistics_of) {
    pthread_mutex_lock(&writing);
    for (uint32_t i = 0; i < count; i++) write_statistics(device, made[i]);
    pthread_mutex_unlock(&writing);
  }
  return result;
}

static VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *wanted,
                                           const VkAllocationCallbacks *allocation, VkInstance *made) {
  VkLayerInstanceCreateInfo *link = (void *)wanted->pNext;
  while (link && !(link->sType == VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO &&
                   link->function == VK_LAYER_LINK_INFO))
    link = (void *)link->pNext;
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  next_instance = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  PFN_vkCreateInstance create = (PFN_vkCreateInstance)next_instance(NULL, "vkCreateInstance");
  VkResult result = create(wanted, allocation, made);
  if (result == VK_SUCCESS) instance = *made;
  return result;
}

static VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *wanted,
                                         const VkAllocationCallbacks *allocation, VkDevice *made) {
  VkLayerDeviceCreateInfo *link = (void *)wanted->pNext;
  while (link && !(link->sType == VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO &&
                   link->function == VK_LAYER_LINK_INFO))
    link = (void *)link->pNext;
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  next_device = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  PFN_vkCreateDevice create = (PFN_vkCreateDevice)next_instance(instance, "vkCreateDevice");

  uint32_t count = wanted->enabledExtensionCount;
  const char **names = malloc((count + 1) * sizeof *names);
  memcpy(names, wanted->ppEnabledExtensionNames, count * sizeof *names);
  names[count] = EXTENSION;
  VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR feature = {
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR,
      (void *)wanted->pNext, VK_TRUE};
  VkDeviceCreateInfo more = *wanted;
  more.pNext = &feature;
  more.ppEnabledExtensionNames = names;
  more.enabledExtensionCount = count + 1;
  VkResult result = create(physical, &more, allocation, made);
  free(names);
  if (result == VK_SUCCESS) {
    executables_of = (void *)next_device(*made, "vkGetPipelineExecutablePropertiesKHR");
    statistics_of = (void *)next_device(*made, "vkGetPipelineExecutableStatisticsKHR");
  } else {
    result = create(physical, wanted, allocation, made);
  }
  if (result == VK_SUCCESS) create_pipelines = (void *)next_device(*made, "vkCreateComputePipelines");
  return result;
}

static PFN_vkVoidFunction VKAPI_CALL of_device(VkDevice device, const char *name) {
  if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)of_device;
  if (!strcmp(name, "vkCreateComputePipelines")) return (PFN_vkVoidFunction)create_and_ask;
  return next_device(device, name);
}

static PFN_vkVoidFunction VKAPI_CALL of_instance(VkInstance from, const char *name) {
  if (!strcmp(name, "vkGetInstanceProcAddr")) return (PFN_vkVoidFunction)of_instance;
  if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)of_device;
  if (!strcmp(name, "vkCreateInstance")) return (PFN_vkVoidFunction)create_instance;
  if (!strcmp(name, "vkCreateDevice")) return (PFN_vkVoidFunction)create_device;
  if (!strcmp(name, "vkCreateComputePipelines")) return (PFN_vkVoidFunction)create_and_ask;
  return next_instance ? next_instance(from, name) : NULL;
}

VK_LAYER_EXPORT VkResult VKAPI_CALL vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *with) {
  with->loaderLayerInterfaceVersion = 2;
  with->pfnGetInstanceProcAddr = of_instance;
  with->pfnGetDeviceProcAddr = of_device;
  with->pfnGetPhysicalDeviceProcAddr = NULL;
  return VK_SUCCESS;
}
