// Tells torch that there is one CUDA device, and one of Apple's, on which nothing has to be done.
//
// A CPU build of torch refuses tensors of cuda:0 and mps:0, because it has neither guards nor
// hooks for such devices. Must be loaded before torch.

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

template <c10::DeviceType kKind>
struct SimulatedGuard final : c10::impl::NoOpDeviceGuardImpl<kKind> {
  static c10::Device device() { return {kKind, 0}; }
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, device()); }
  c10::Device exchangeDevice(c10::Device) const override { return device(); }
  c10::Device getDevice() const override { return device(); }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const c10::Stream&) const override {}
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void synchronizeStream(const c10::Stream&) const override {}
};

const SimulatedGuard<c10::DeviceType::CUDA> cuda;
const c10::impl::DeviceGuardImplRegistrar of_cuda(c10::DeviceType::CUDA, &cuda);
const SimulatedGuard<c10::DeviceType::MPS> mps;
const c10::impl::DeviceGuardImplRegistrar of_mps(c10::DeviceType::MPS, &mps);

bool has_mps = false;  // and then no CUDA: torch knows one kind of accelerator

}  // namespace

extern "C" void simulate_mps(bool on) { has_mps = on; }

namespace at {

struct SimulatedHooks final : CUDAHooksInterface {
  explicit SimulatedHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return !has_mps; }
  bool isBuilt() const override { return !has_mps; }
  bool isAvailable() const override { return !has_mps; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};

using at::CUDAHooksRegistry;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, SimulatedHooks)

struct SimulatedMpsHooks final : MPSHooksInterface {
  void init() const override {}
  bool hasMPS() const override { return has_mps; }
  bool isBuilt() const override { return has_mps; }
  bool isAvailable() const override { return has_mps; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};

using at::MPSHooksRegistry;
C10_REGISTER_CLASS(MPSHooksRegistry, MPSHooks, SimulatedMpsHooks)

}  // namespace at
