// std::atomic and doubles in mapped registers.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <sys/mman.h>
#include <thread>
#include <vector>

int main(int, char **argv)
{
	int fd = open(argv[1], O_RDWR);
	auto *area = static_cast<char *>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	auto *count = reinterpret_cast<std::atomic<uint64_t> *>(area + 0x100);
	auto *lock = reinterpret_cast<std::atomic_flag *>(area + 0x108);
	auto *value = reinterpret_cast<std::atomic<uint32_t> *>(area + 0x10c);
	auto *number = reinterpret_cast<volatile double *>(area + 0x110);
	unsigned guarded = 0;
	std::vector<std::thread> threads;
	for (int i = 0; i < 4; i++)
		threads.emplace_back([&] {
			for (int j = 0; j < 100; j++) {
				count->fetch_add(1);
				while (lock->test_and_set(std::memory_order_acquire))
					std::this_thread::yield();
				guarded++;
				lock->clear(std::memory_order_release);
			}
		});
	for (auto &thread : threads)
		thread.join();
	value->store(7);
	bool ok = value->exchange(9) == 7 && value->fetch_or(6) == 9 && value->load() == 15;
	*number = 1.25;
	*number = *number * 2;
	std::printf("fetch_add %lu, flags %u, exchange %s, doubles %g\n", (unsigned long)count->load(), guarded, ok ? "ok" : "wrong",
		    *number);
}
