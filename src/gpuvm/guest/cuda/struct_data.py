"""The handle and structure types of the CUDA driver API as data: names, fields and C types
(cuda.bindings.driver 12.9).
"""

HANDLES = """
CUarray
CUasyncCallback
CUasyncCallbackHandle
CUcontext
CUdevResourceDesc
CUeglStreamConnection
CUevent
CUexternalMemory
CUexternalSemaphore
CUfunction
CUgraph
CUgraphDeviceNode
CUgraphExec
CUgraphNode
CUgraphicsResource
CUgreenCtx
CUhostFn
CUkernel
CUlibrary
CUlinkState
CUlogsCallback
CUlogsCallbackHandle
CUmemoryPool
CUmipmappedArray
CUmodule
CUoccupancyB2DSize
CUstream
CUstreamCallback
CUsurfref
CUtexref
CUuserObject
EGLImageKHR
EGLStreamKHR
EGLSyncKHR
"""
"""Opaque pointers: comparable, hashable, usable as an index."""

INTEGERS = """
CUdevice
CUdevice_v1
CUdeviceptr
CUdeviceptr_v2
CUgraphConditionalHandle
CUlogIterator
CUmemGenericAllocationHandle
CUmemGenericAllocationHandle_v1
CUsurfObject
CUsurfObject_v1
CUtexObject
CUtexObject_v1
EGLint
GLenum
GLuint
VdpDevice
VdpGetProcAddress
VdpOutputSurface
VdpVideoSurface
cuuint32_t
cuuint64_t
"""
"""Integers in a box: device ordinals, device pointers, 64-bit object names."""

STRUCTURES = """
CUDA_ARRAY3D_DESCRIPTOR_st
    Width size_t
    Height size_t
    Depth size_t
    Format CUarray_format
    NumChannels unsigned int
    Flags unsigned int
CUDA_ARRAY3D_DESCRIPTOR_v2 : CUDA_ARRAY3D_DESCRIPTOR_st
CUDA_ARRAY3D_DESCRIPTOR : CUDA_ARRAY3D_DESCRIPTOR_v2
CUDA_ARRAY_DESCRIPTOR_st
    Width size_t
    Height size_t
    Format CUarray_format
    NumChannels unsigned int
CUDA_ARRAY_DESCRIPTOR_v2 : CUDA_ARRAY_DESCRIPTOR_st
CUDA_ARRAY_DESCRIPTOR : CUDA_ARRAY_DESCRIPTOR_v2
CUDA_ARRAY_MEMORY_REQUIREMENTS_st
    size size_t
    alignment size_t
CUDA_ARRAY_MEMORY_REQUIREMENTS_v1 : CUDA_ARRAY_MEMORY_REQUIREMENTS_st
CUDA_ARRAY_MEMORY_REQUIREMENTS : CUDA_ARRAY_MEMORY_REQUIREMENTS_v1
CUDA_ARRAY_SPARSE_PROPERTIES_st
    tileExtent anon_struct6
    miptailFirstLevel unsigned int
    miptailSize unsigned long long
    flags unsigned int
CUDA_ARRAY_SPARSE_PROPERTIES_v1 : CUDA_ARRAY_SPARSE_PROPERTIES_st
CUDA_ARRAY_SPARSE_PROPERTIES : CUDA_ARRAY_SPARSE_PROPERTIES_v1
CUDA_BATCH_MEM_OP_NODE_PARAMS_v1_st
    ctx CUcontext
    count unsigned int
    paramArray list[CUstreamBatchMemOpParams]
    flags unsigned int
CUDA_BATCH_MEM_OP_NODE_PARAMS_v1 : CUDA_BATCH_MEM_OP_NODE_PARAMS_v1_st
CUDA_BATCH_MEM_OP_NODE_PARAMS : CUDA_BATCH_MEM_OP_NODE_PARAMS_v1
CUDA_BATCH_MEM_OP_NODE_PARAMS_v2_st
    ctx CUcontext
    count unsigned int
    paramArray list[CUstreamBatchMemOpParams]
    flags unsigned int
CUDA_BATCH_MEM_OP_NODE_PARAMS_v2 : CUDA_BATCH_MEM_OP_NODE_PARAMS_v2_st
CUDA_CHILD_GRAPH_NODE_PARAMS_st
    graph CUgraph
    ownership CUgraphChildGraphNodeOwnership
CUDA_CHILD_GRAPH_NODE_PARAMS : CUDA_CHILD_GRAPH_NODE_PARAMS_st
CUDA_CONDITIONAL_NODE_PARAMS
    handle CUgraphConditionalHandle
    type CUgraphConditionalNodeType
    size unsigned int
    phGraph_out list[CUgraph]
    ctx CUcontext
CUDA_EVENT_RECORD_NODE_PARAMS_st
    event CUevent
CUDA_EVENT_RECORD_NODE_PARAMS : CUDA_EVENT_RECORD_NODE_PARAMS_st
CUDA_EVENT_WAIT_NODE_PARAMS_st
    event CUevent
CUDA_EVENT_WAIT_NODE_PARAMS : CUDA_EVENT_WAIT_NODE_PARAMS_st
CUDA_EXTERNAL_MEMORY_BUFFER_DESC_st
    offset unsigned long long
    size unsigned long long
    flags unsigned int
CUDA_EXTERNAL_MEMORY_BUFFER_DESC_v1 : CUDA_EXTERNAL_MEMORY_BUFFER_DESC_st
CUDA_EXTERNAL_MEMORY_BUFFER_DESC : CUDA_EXTERNAL_MEMORY_BUFFER_DESC_v1
CUDA_EXTERNAL_MEMORY_HANDLE_DESC_st
    type CUexternalMemoryHandleType
    handle anon_union5
    size unsigned long long
    flags unsigned int
CUDA_EXTERNAL_MEMORY_HANDLE_DESC_v1 : CUDA_EXTERNAL_MEMORY_HANDLE_DESC_st
CUDA_EXTERNAL_MEMORY_HANDLE_DESC : CUDA_EXTERNAL_MEMORY_HANDLE_DESC_v1
CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC_st
    offset unsigned long long
    arrayDesc CUDA_ARRAY3D_DESCRIPTOR
    numLevels unsigned int
CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC_v1 : CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC_st
CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC : CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC_v1
CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC_st
    type CUexternalSemaphoreHandleType
    handle anon_union6
    flags unsigned int
CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC_v1 : CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC_st
CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC : CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC_v1
CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS_st
    params anon_struct16
    flags unsigned int
CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS_v1 : CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS_st
CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS : CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS_v1
CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS_st
    params anon_struct19
    flags unsigned int
CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS_v1 : CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS_st
CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS : CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS_v1
CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_st
    extSemArray list[CUexternalSemaphore]
    paramsArray list[CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS]
    numExtSems unsigned int
CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v1 : CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_st
CUDA_EXT_SEM_SIGNAL_NODE_PARAMS : CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v1
CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v2_st
    extSemArray list[CUexternalSemaphore]
    paramsArray list[CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS]
    numExtSems unsigned int
CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v2 : CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v2_st
CUDA_EXT_SEM_WAIT_NODE_PARAMS_st
    extSemArray list[CUexternalSemaphore]
    paramsArray list[CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS]
    numExtSems unsigned int
CUDA_EXT_SEM_WAIT_NODE_PARAMS_v1 : CUDA_EXT_SEM_WAIT_NODE_PARAMS_st
CUDA_EXT_SEM_WAIT_NODE_PARAMS : CUDA_EXT_SEM_WAIT_NODE_PARAMS_v1
CUDA_EXT_SEM_WAIT_NODE_PARAMS_v2_st
    extSemArray list[CUexternalSemaphore]
    paramsArray list[CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS]
    numExtSems unsigned int
CUDA_EXT_SEM_WAIT_NODE_PARAMS_v2 : CUDA_EXT_SEM_WAIT_NODE_PARAMS_v2_st
CUDA_GRAPH_INSTANTIATE_PARAMS_st
    flags cuuint64_t
    hUploadStream CUstream
    hErrNode_out CUgraphNode
    result_out CUgraphInstantiateResult
CUDA_GRAPH_INSTANTIATE_PARAMS : CUDA_GRAPH_INSTANTIATE_PARAMS_st
CUDA_HOST_NODE_PARAMS_st
    fn CUhostFn
    userData Any
CUDA_HOST_NODE_PARAMS_v1 : CUDA_HOST_NODE_PARAMS_st
CUDA_HOST_NODE_PARAMS : CUDA_HOST_NODE_PARAMS_v1
CUDA_HOST_NODE_PARAMS_v2_st
    fn CUhostFn
    userData Any
CUDA_HOST_NODE_PARAMS_v2 : CUDA_HOST_NODE_PARAMS_v2_st
CUDA_KERNEL_NODE_PARAMS_v2_st
    func CUfunction
    gridDimX unsigned int
    gridDimY unsigned int
    gridDimZ unsigned int
    blockDimX unsigned int
    blockDimY unsigned int
    blockDimZ unsigned int
    sharedMemBytes unsigned int
    kernelParams Any
    extra Any
    kern CUkernel
    ctx CUcontext
CUDA_KERNEL_NODE_PARAMS_v2 : CUDA_KERNEL_NODE_PARAMS_v2_st
CUDA_KERNEL_NODE_PARAMS : CUDA_KERNEL_NODE_PARAMS_v2
CUDA_KERNEL_NODE_PARAMS_st
    func CUfunction
    gridDimX unsigned int
    gridDimY unsigned int
    gridDimZ unsigned int
    blockDimX unsigned int
    blockDimY unsigned int
    blockDimZ unsigned int
    sharedMemBytes unsigned int
    kernelParams Any
    extra Any
CUDA_KERNEL_NODE_PARAMS_v1 : CUDA_KERNEL_NODE_PARAMS_st
CUDA_KERNEL_NODE_PARAMS_v3_st
    func CUfunction
    gridDimX unsigned int
    gridDimY unsigned int
    gridDimZ unsigned int
    blockDimX unsigned int
    blockDimY unsigned int
    blockDimZ unsigned int
    sharedMemBytes unsigned int
    kernelParams Any
    extra Any
    kern CUkernel
    ctx CUcontext
CUDA_KERNEL_NODE_PARAMS_v3 : CUDA_KERNEL_NODE_PARAMS_v3_st
CUDA_LAUNCH_PARAMS_st
    function CUfunction
    gridDimX unsigned int
    gridDimY unsigned int
    gridDimZ unsigned int
    blockDimX unsigned int
    blockDimY unsigned int
    blockDimZ unsigned int
    sharedMemBytes unsigned int
    hStream CUstream
    kernelParams Any
CUDA_LAUNCH_PARAMS_v1 : CUDA_LAUNCH_PARAMS_st
CUDA_LAUNCH_PARAMS : CUDA_LAUNCH_PARAMS_v1
CUDA_MEMCPY2D_st
    srcXInBytes size_t
    srcY size_t
    srcMemoryType CUmemorytype
    srcHost Any
    srcDevice CUdeviceptr
    srcArray CUarray
    srcPitch size_t
    dstXInBytes size_t
    dstY size_t
    dstMemoryType CUmemorytype
    dstHost Any
    dstDevice CUdeviceptr
    dstArray CUarray
    dstPitch size_t
    WidthInBytes size_t
    Height size_t
CUDA_MEMCPY2D_v2 : CUDA_MEMCPY2D_st
CUDA_MEMCPY2D : CUDA_MEMCPY2D_v2
CUDA_MEMCPY3D_st
    srcXInBytes size_t
    srcY size_t
    srcZ size_t
    srcLOD size_t
    srcMemoryType CUmemorytype
    srcHost Any
    srcDevice CUdeviceptr
    srcArray CUarray
    srcPitch size_t
    srcHeight size_t
    dstXInBytes size_t
    dstY size_t
    dstZ size_t
    dstLOD size_t
    dstMemoryType CUmemorytype
    dstHost Any
    dstDevice CUdeviceptr
    dstArray CUarray
    dstPitch size_t
    dstHeight size_t
    WidthInBytes size_t
    Height size_t
    Depth size_t
CUDA_MEMCPY3D_v2 : CUDA_MEMCPY3D_st
CUDA_MEMCPY3D : CUDA_MEMCPY3D_v2
CUDA_MEMCPY3D_BATCH_OP_st
    src CUmemcpy3DOperand
    dst CUmemcpy3DOperand
    extent CUextent3D
    srcAccessOrder CUmemcpySrcAccessOrder
    flags unsigned int
CUDA_MEMCPY3D_BATCH_OP_v1 : CUDA_MEMCPY3D_BATCH_OP_st
CUDA_MEMCPY3D_BATCH_OP : CUDA_MEMCPY3D_BATCH_OP_v1
CUDA_MEMCPY3D_PEER_st
    srcXInBytes size_t
    srcY size_t
    srcZ size_t
    srcLOD size_t
    srcMemoryType CUmemorytype
    srcHost Any
    srcDevice CUdeviceptr
    srcArray CUarray
    srcContext CUcontext
    srcPitch size_t
    srcHeight size_t
    dstXInBytes size_t
    dstY size_t
    dstZ size_t
    dstLOD size_t
    dstMemoryType CUmemorytype
    dstHost Any
    dstDevice CUdeviceptr
    dstArray CUarray
    dstContext CUcontext
    dstPitch size_t
    dstHeight size_t
    WidthInBytes size_t
    Height size_t
    Depth size_t
CUDA_MEMCPY3D_PEER_v1 : CUDA_MEMCPY3D_PEER_st
CUDA_MEMCPY3D_PEER : CUDA_MEMCPY3D_PEER_v1
CUDA_MEMCPY_NODE_PARAMS_st
    flags int
    copyCtx CUcontext
    copyParams CUDA_MEMCPY3D
CUDA_MEMCPY_NODE_PARAMS : CUDA_MEMCPY_NODE_PARAMS_st
CUDA_MEMSET_NODE_PARAMS_st
    dst CUdeviceptr
    pitch size_t
    value unsigned int
    elementSize unsigned int
    width size_t
    height size_t
CUDA_MEMSET_NODE_PARAMS_v1 : CUDA_MEMSET_NODE_PARAMS_st
CUDA_MEMSET_NODE_PARAMS : CUDA_MEMSET_NODE_PARAMS_v1
CUDA_MEMSET_NODE_PARAMS_v2_st
    dst CUdeviceptr
    pitch size_t
    value unsigned int
    elementSize unsigned int
    width size_t
    height size_t
    ctx CUcontext
CUDA_MEMSET_NODE_PARAMS_v2 : CUDA_MEMSET_NODE_PARAMS_v2_st
CUDA_MEM_ALLOC_NODE_PARAMS_v1_st
    poolProps CUmemPoolProps
    accessDescs list[CUmemAccessDesc]
    accessDescCount size_t
    bytesize size_t
    dptr CUdeviceptr
CUDA_MEM_ALLOC_NODE_PARAMS_v1 : CUDA_MEM_ALLOC_NODE_PARAMS_v1_st
CUDA_MEM_ALLOC_NODE_PARAMS : CUDA_MEM_ALLOC_NODE_PARAMS_v1
CUDA_MEM_ALLOC_NODE_PARAMS_v2_st
    poolProps CUmemPoolProps
    accessDescs list[CUmemAccessDesc]
    accessDescCount size_t
    bytesize size_t
    dptr CUdeviceptr
CUDA_MEM_ALLOC_NODE_PARAMS_v2 : CUDA_MEM_ALLOC_NODE_PARAMS_v2_st
CUDA_MEM_FREE_NODE_PARAMS_st
    dptr CUdeviceptr
CUDA_MEM_FREE_NODE_PARAMS : CUDA_MEM_FREE_NODE_PARAMS_st
CUDA_POINTER_ATTRIBUTE_P2P_TOKENS_st
    p2pToken unsigned long long
    vaSpaceToken unsigned int
CUDA_POINTER_ATTRIBUTE_P2P_TOKENS_v1 : CUDA_POINTER_ATTRIBUTE_P2P_TOKENS_st
CUDA_POINTER_ATTRIBUTE_P2P_TOKENS : CUDA_POINTER_ATTRIBUTE_P2P_TOKENS_v1
CUDA_RESOURCE_DESC_st
    resType CUresourcetype
    res anon_union4
    flags unsigned int
CUDA_RESOURCE_DESC_v1 : CUDA_RESOURCE_DESC_st
CUDA_RESOURCE_DESC : CUDA_RESOURCE_DESC_v1
CUDA_RESOURCE_VIEW_DESC_st
    format CUresourceViewFormat
    width size_t
    height size_t
    depth size_t
    firstMipmapLevel unsigned int
    lastMipmapLevel unsigned int
    firstLayer unsigned int
    lastLayer unsigned int
CUDA_RESOURCE_VIEW_DESC_v1 : CUDA_RESOURCE_VIEW_DESC_st
CUDA_RESOURCE_VIEW_DESC : CUDA_RESOURCE_VIEW_DESC_v1
CUDA_TEXTURE_DESC_st
    addressMode list[CUaddress_mode]
    filterMode CUfilter_mode
    flags unsigned int
    maxAnisotropy unsigned int
    mipmapFilterMode CUfilter_mode
    mipmapLevelBias float
    minMipmapLevelClamp float
    maxMipmapLevelClamp float
    borderColor list[float]
CUDA_TEXTURE_DESC_v1 : CUDA_TEXTURE_DESC_st
CUDA_TEXTURE_DESC : CUDA_TEXTURE_DESC_v1
CUaccessPolicyWindow_st
    base_ptr Any
    num_bytes size_t
    hitRatio float
    hitProp CUaccessProperty
    missProp CUaccessProperty
CUaccessPolicyWindow_v1 : CUaccessPolicyWindow_st
CUaccessPolicyWindow : CUaccessPolicyWindow_v1
CUarrayMapInfo_st
    resourceType CUresourcetype
    resource anon_union9
    subresourceType CUarraySparseSubresourceType
    subresource anon_union10
    memOperationType CUmemOperationType
    memHandleType CUmemHandleType
    memHandle anon_union11
    offset unsigned long long
    deviceBitMask unsigned int
    flags unsigned int
CUarrayMapInfo_v1 : CUarrayMapInfo_st
CUarrayMapInfo : CUarrayMapInfo_v1
CUasyncNotificationInfo_st
    type CUasyncNotificationType
    info anon_union2
CUasyncNotificationInfo : CUasyncNotificationInfo_st
CUcheckpointCheckpointArgs_st
CUcheckpointCheckpointArgs : CUcheckpointCheckpointArgs_st
CUcheckpointLockArgs_st
    timeoutMs unsigned int
CUcheckpointLockArgs : CUcheckpointLockArgs_st
CUcheckpointRestoreArgs_st
CUcheckpointRestoreArgs : CUcheckpointRestoreArgs_st
CUcheckpointUnlockArgs_st
CUcheckpointUnlockArgs : CUcheckpointUnlockArgs_st
CUctxCigParam_st
    sharedDataType CUcigDataType
    sharedData Any
CUctxCigParam : CUctxCigParam_st
CUctxCreateParams_st
    execAffinityParams list[CUexecAffinityParam]
    numExecAffinityParams int
    cigParams list[CUctxCigParam]
CUctxCreateParams : CUctxCreateParams_st
CUdevResource_st
    type CUdevResourceType
    _internal_padding bytes
    sm CUdevSmResource
    _oversize bytes
CUdevResource_v1 : CUdevResource_st
CUdevResource : CUdevResource_v1
CUdevSmResource_st
    smCount unsigned int
CUdevSmResource : CUdevSmResource_st
CUdevprop_st
    maxThreadsPerBlock int
    maxThreadsDim list[int]
    maxGridSize list[int]
    sharedMemPerBlock int
    totalConstantMemory int
    SIMDWidth int
    memPitch int
    regsPerBlock int
    clockRate int
    textureAlign int
CUdevprop_v1 : CUdevprop_st
CUdevprop : CUdevprop_v1
CUeglFrame_st
    frame anon_union15
    width unsigned int
    height unsigned int
    depth unsigned int
    pitch unsigned int
    planeCount unsigned int
    numChannels unsigned int
    frameType CUeglFrameType
    eglColorFormat CUeglColorFormat
    cuFormat CUarray_format
CUeglFrame_v1 : CUeglFrame_st
CUeglFrame : CUeglFrame_v1
CUexecAffinityParam_st
    type CUexecAffinityType
    param anon_union3
CUexecAffinityParam_v1 : CUexecAffinityParam_st
CUexecAffinityParam : CUexecAffinityParam_v1
CUexecAffinitySmCount_st
    val unsigned int
CUexecAffinitySmCount_v1 : CUexecAffinitySmCount_st
CUexecAffinitySmCount : CUexecAffinitySmCount_v1
CUextent3D_st
    width size_t
    height size_t
    depth size_t
CUextent3D_v1 : CUextent3D_st
CUextent3D : CUextent3D_v1
CUgraphEdgeData_st
    from_port bytes
    to_port bytes
    type bytes
CUgraphEdgeData : CUgraphEdgeData_st
CUgraphExecUpdateResultInfo_st
    result CUgraphExecUpdateResult
    errorNode CUgraphNode
    errorFromNode CUgraphNode
CUgraphExecUpdateResultInfo_v1 : CUgraphExecUpdateResultInfo_st
CUgraphExecUpdateResultInfo : CUgraphExecUpdateResultInfo_v1
CUgraphNodeParams_st
    type CUgraphNodeType
    kernel CUDA_KERNEL_NODE_PARAMS_v3
    memcpy CUDA_MEMCPY_NODE_PARAMS
    memset CUDA_MEMSET_NODE_PARAMS_v2
    host CUDA_HOST_NODE_PARAMS_v2
    graph CUDA_CHILD_GRAPH_NODE_PARAMS
    eventWait CUDA_EVENT_WAIT_NODE_PARAMS
    eventRecord CUDA_EVENT_RECORD_NODE_PARAMS
    extSemSignal CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v2
    extSemWait CUDA_EXT_SEM_WAIT_NODE_PARAMS_v2
    alloc CUDA_MEM_ALLOC_NODE_PARAMS_v2
    free CUDA_MEM_FREE_NODE_PARAMS
    memOp CUDA_BATCH_MEM_OP_NODE_PARAMS_v2
    conditional CUDA_CONDITIONAL_NODE_PARAMS
CUgraphNodeParams : CUgraphNodeParams_st
CUipcEventHandle_st
CUipcEventHandle_v1 : CUipcEventHandle_st
CUipcEventHandle : CUipcEventHandle_v1
CUipcMemHandle_st
CUipcMemHandle_v1 : CUipcMemHandle_st
CUipcMemHandle : CUipcMemHandle_v1
CUlaunchAttributeValue_union
    pad bytes
    accessPolicyWindow CUaccessPolicyWindow
    cooperative int
    syncPolicy CUsynchronizationPolicy
    clusterDim anon_struct1
    clusterSchedulingPolicyPreference CUclusterSchedulingPolicy
    programmaticStreamSerializationAllowed int
    programmaticEvent anon_struct2
    launchCompletionEvent anon_struct3
    priority int
    memSyncDomainMap CUlaunchMemSyncDomainMap
    memSyncDomain CUlaunchMemSyncDomain
    preferredClusterDim anon_struct4
    deviceUpdatableKernelNode anon_struct5
    sharedMemCarveout unsigned int
CUlaunchAttributeValue : CUlaunchAttributeValue_union
CUkernelNodeAttrValue_v1 : CUlaunchAttributeValue
CUkernelNodeAttrValue : CUkernelNodeAttrValue_v1
CUlaunchAttribute_st
    id CUlaunchAttributeID
    value CUlaunchAttributeValue
CUlaunchAttribute : CUlaunchAttribute_st
CUlaunchConfig_st
    gridDimX unsigned int
    gridDimY unsigned int
    gridDimZ unsigned int
    blockDimX unsigned int
    blockDimY unsigned int
    blockDimZ unsigned int
    sharedMemBytes unsigned int
    hStream CUstream
    attrs list[CUlaunchAttribute]
    numAttrs unsigned int
CUlaunchConfig : CUlaunchConfig_st
CUlaunchMemSyncDomainMap_st
    default_ bytes
    remote bytes
CUlaunchMemSyncDomainMap : CUlaunchMemSyncDomainMap_st
CUlibraryHostUniversalFunctionAndDataTable_st
    functionTable Any
    functionWindowSize size_t
    dataTable Any
    dataWindowSize size_t
CUlibraryHostUniversalFunctionAndDataTable : CUlibraryHostUniversalFunctionAndDataTable_st
CUmemAccessDesc_st
    location CUmemLocation
    flags CUmemAccess_flags
CUmemAccessDesc_v1 : CUmemAccessDesc_st
CUmemAccessDesc : CUmemAccessDesc_v1
CUmemAllocationProp_st
    type CUmemAllocationType
    requestedHandleTypes CUmemAllocationHandleType
    location CUmemLocation
    win32HandleMetaData Any
    allocFlags anon_struct22
CUmemAllocationProp_v1 : CUmemAllocationProp_st
CUmemAllocationProp : CUmemAllocationProp_v1
CUmemDecompressParams_st
    srcNumBytes size_t
    dstNumBytes size_t
    dstActBytes cuuint32_t
    src Any
    dst Any
    algo CUmemDecompressAlgorithm
CUmemDecompressParams : CUmemDecompressParams_st
CUmemFabricHandle_st
    data bytes
CUmemFabricHandle_v1 : CUmemFabricHandle_st
CUmemFabricHandle : CUmemFabricHandle_v1
CUmemLocation_st
    type CUmemLocationType
    id int
CUmemLocation_v1 : CUmemLocation_st
CUmemLocation : CUmemLocation_v1
CUmemPoolProps_st
    allocType CUmemAllocationType
    handleTypes CUmemAllocationHandleType
    location CUmemLocation
    win32SecurityAttributes Any
    maxSize size_t
    usage unsigned short
CUmemPoolProps_v1 : CUmemPoolProps_st
CUmemPoolProps : CUmemPoolProps_v1
CUmemPoolPtrExportData_st
CUmemPoolPtrExportData_v1 : CUmemPoolPtrExportData_st
CUmemPoolPtrExportData : CUmemPoolPtrExportData_v1
CUmemcpy3DOperand_st
    type CUmemcpy3DOperandType
    op anon_union12
CUmemcpy3DOperand_v1 : CUmemcpy3DOperand_st
CUmemcpy3DOperand : CUmemcpy3DOperand_v1
CUmemcpyAttributes_st
    srcAccessOrder CUmemcpySrcAccessOrder
    srcLocHint CUmemLocation
    dstLocHint CUmemLocation
    flags unsigned int
CUmemcpyAttributes_v1 : CUmemcpyAttributes_st
CUmemcpyAttributes : CUmemcpyAttributes_v1
CUmulticastObjectProp_st
    numDevices unsigned int
    size size_t
    handleTypes unsigned long long
    flags unsigned long long
CUmulticastObjectProp_v1 : CUmulticastObjectProp_st
CUmulticastObjectProp : CUmulticastObjectProp_v1
CUoffset3D_st
    x size_t
    y size_t
    z size_t
CUoffset3D_v1 : CUoffset3D_st
CUoffset3D : CUoffset3D_v1
CUstreamAttrValue_v1 : CUlaunchAttributeValue
CUstreamAttrValue : CUstreamAttrValue_v1
CUstreamBatchMemOpParams_union
    operation CUstreamBatchMemOpType
    waitValue CUstreamMemOpWaitValueParams_st
    writeValue CUstreamMemOpWriteValueParams_st
    flushRemoteWrites CUstreamMemOpFlushRemoteWritesParams_st
    memoryBarrier CUstreamMemOpMemoryBarrierParams_st
    pad list[cuuint64_t]
CUstreamBatchMemOpParams_v1 : CUstreamBatchMemOpParams_union
CUstreamBatchMemOpParams : CUstreamBatchMemOpParams_v1
CUstreamMemOpFlushRemoteWritesParams_st
    operation CUstreamBatchMemOpType
    flags unsigned int
CUstreamMemOpMemoryBarrierParams_st
    operation CUstreamBatchMemOpType
    flags unsigned int
CUstreamMemOpWaitValueParams_st
    operation CUstreamBatchMemOpType
    address CUdeviceptr
    value cuuint32_t
    value64 cuuint64_t
    flags unsigned int
    alias CUdeviceptr
CUstreamMemOpWriteValueParams_st
    operation CUstreamBatchMemOpType
    address CUdeviceptr
    value cuuint32_t
    value64 cuuint64_t
    flags unsigned int
    alias CUdeviceptr
CUtensorMap_st
    opaque list[cuuint64_t]
CUtensorMap : CUtensorMap_st
CUuuid_st
    bytes bytes
CUuuid : CUuuid_st
anon_struct0
    bytesOverBudget unsigned long long
anon_struct1
    x unsigned int
    y unsigned int
    z unsigned int
anon_struct10
    devPtr CUdeviceptr
    format CUarray_format
    numChannels unsigned int
    width size_t
    height size_t
    pitchInBytes size_t
anon_struct11
anon_struct12
    handle Any
    name Any
anon_struct13
    handle Any
    name Any
anon_struct14
    value unsigned long long
anon_struct15
    key unsigned long long
anon_struct16
    fence anon_struct14
    nvSciSync anon_union7
    keyedMutex anon_struct15
anon_struct17
    value unsigned long long
anon_struct18
    key unsigned long long
    timeoutMs unsigned int
anon_struct19
    fence anon_struct17
    nvSciSync anon_union8
    keyedMutex anon_struct18
anon_struct2
    event CUevent
    flags int
    triggerAtBlockStart int
anon_struct20
    level unsigned int
    layer unsigned int
    offsetX unsigned int
    offsetY unsigned int
    offsetZ unsigned int
    extentWidth unsigned int
    extentHeight unsigned int
    extentDepth unsigned int
anon_struct21
    layer unsigned int
    offset unsigned long long
    size unsigned long long
anon_struct22
    compressionType bytes
    gpuDirectRDMACapable bytes
    usage unsigned short
anon_struct23
    ptr CUdeviceptr
    rowLength size_t
    layerHeight size_t
    locHint CUmemLocation
anon_struct24
    array CUarray
    offset CUoffset3D
anon_struct3
    event CUevent
    flags int
anon_struct4
    x unsigned int
    y unsigned int
    z unsigned int
anon_struct5
    deviceUpdatable int
    devNode CUgraphDeviceNode
anon_struct6
    width unsigned int
    height unsigned int
    depth unsigned int
anon_struct7
    hArray CUarray
anon_struct8
    hMipmappedArray CUmipmappedArray
anon_struct9
    devPtr CUdeviceptr
    format CUarray_format
    numChannels unsigned int
    sizeInBytes size_t
anon_union10
    sparseLevel anon_struct20
    miptail anon_struct21
anon_union11
    memHandle CUmemGenericAllocationHandle
anon_union12
    ptr anon_struct23
    array anon_struct24
anon_union15
    pArray list[CUarray]
    pPitch list[Any]
anon_union2
    overBudget anon_struct0
anon_union3
    smCount CUexecAffinitySmCount
anon_union4
    array anon_struct7
    mipmap anon_struct8
    linear anon_struct9
    pitch2D anon_struct10
anon_union5
    fd int
    win32 anon_struct12
    nvSciBufObject Any
anon_union6
    fd int
    win32 anon_struct13
    nvSciSyncObj Any
anon_union7
    fence Any
anon_union8
    fence Any
anon_union9
    mipmap CUmipmappedArray
    array CUarray
cudaBindingsDriverGlobal
"""
"""A structure a line: `name`, then its fields as `name type`; or `name : base`, which adds nothing."""
